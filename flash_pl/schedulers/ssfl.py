"""SSFL: one fixed global mask from the saliencies that all clients measure before training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.schedulers.base import FirstStage, SparseScheduler
from flash_pl.schedulers.flash import Dense
from flash_pl.server import ClientUpdate, ServerState
from flash_pl.sparsity import AsDrawn, CriterionInput, FirstMask, Layout, Saliency, top_k_by_cost

# Measurements are averaged in fixed point; saliencies are small and would lose digits there.
SCALE = 2.0**12


class SSFL(SparseScheduler):
    """Salient sparse federated learning: a fixed mask of the d n weights of largest mean saliency.

    Source: Ohib et al., SSFL, TMLR 2026 (arXiv 2405.09037); the authors' code was read. Before the first round every
    client sends |g w| of one minibatch at the dense initial weights, 4 bytes per weight. The server takes the plain
    mean and keeps the largest values over all layers. Then values go both ways under that mask, which is sent once.

    Unlike there: saliencies are measured in training mode, not with the running statistics of batch norms; ties go by
    position; layers that the model excludes stay dense.

    Args:
        saliency: which clients measure saliencies.
        first_mask: as in ``SparseScheduler``, of which only ``initialize`` acts. By default the initial weights stay as
            drawn, since saliencies were measured at them.

    >>> from flash_pl import FederatedTrainer
    >>> trainer = FederatedTrainer(SSFL(), density=0.05, rounds=5, cohort=10)
    """

    def __init__(self, saliency: "SaliencyStage | None" = None, first_mask: FirstMask | None = None) -> None:
        super().__init__(first_mask or FirstMask(initialize=AsDrawn()))
        self.first_stage = saliency or SaliencyStage()

    def initial_mask(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> Tensor:
        assert measured is not None
        return top_k_by_cost(server.layout, measured, server.layout.budget(server.density))


@dataclass(frozen=True)
class SaliencyStage(FirstStage):
    """Stage 1 of SSFL: clients send |g w| of every maskable weight, from one minibatch.

    Args:
        init_fraction: as in ``FirstStage``.
        batches: of every client; only the first one is measured.

    >>> SaliencyStage(init_fraction=0.2).num_clients(total=100)
    20
    """

    init_fraction: float = 1.0
    batches: int | None = 1

    def trainee(self, first_mask: FirstMask) -> SparseScheduler:
        return SaliencyTrainee(first_mask)

    def size(self, layout: Layout) -> int:
        return layout.maskable

    def measurement(self, update: ClientUpdate) -> Tensor:
        return update.extra["scores"]


class SaliencyTrainee(Dense):
    """Measures |g w| on a client's first batch, at the server's dense weights."""

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        self.scores: Tensor | None = None

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        if step == 0:
            self.scores = Saliency().scores(CriterionInput(client.layout, client.weights, client.gradients()))

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        if self.scores is None:
            raise ValueError("the module skipped the first batch, so there are no saliencies")
        return {"scores": self.scores * SCALE}
