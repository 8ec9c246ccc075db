"""SSFL: one global mask from the saliencies that all clients find before training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.schedulers.base import FirstStage, SparseScheduler
from flash_pl.schedulers.flash import Dense
from flash_pl.server import ServerState
from flash_pl.server.updates import Report
from flash_pl.sparsity import AsDrawn, CriterionInput, FirstMask, Layout, Saliency, top_k, total_count

SCALE = 2.0**12  # averages are in fixed point: saliencies are small


class SaliencyTrainee(Dense):
    """Measures |g w| on a client's first batch, at the server's dense weights."""

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        self.scores: Tensor | None = None

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        if step == 0:
            self.scores = Saliency().scores(CriterionInput(client.layout, client.weights, client.gradients()))

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        if self.scores is None:
            raise ValueError("its first batch was skipped; there are no saliencies")
        return {"scores": self.scores * SCALE}


@dataclass(frozen=True)
class SaliencyStage(FirstStage):
    """Clients send |g w| of every maskable weight, from one minibatch.

    Args:
        init_fraction: as in ``FirstStage``.
        batches: of every client; only the first one counts.
    """

    init_fraction: float = 1.0
    batches: int | None = 1

    def trainee(self, first_mask: FirstMask) -> SparseScheduler:
        return SaliencyTrainee(first_mask)

    def size(self, layout: Layout) -> int:
        return layout.maskable

    def found(self, report: Report) -> Tensor:
        return report.extra["scores"]


class SSFL(SparseScheduler):
    """Salient sparse federated learning: a fixed mask of the d n weights of largest mean saliency.

    Source: Ohib et al., SSFL, TMLR 2026 (arXiv 2405.09037), the authors' code was read. Before the first round every
    client sends |g w| of one minibatch at the dense initial weights, 4 bytes a weight; the server takes their plain
    mean and keeps the largest over all layers. Then values go both ways under that mask, which is sent once.

    Other than there: saliencies are found in training mode, not with the running statistics of batch norms; ties go by
    position; layers that the model excludes stay dense.

    Args:
        saliency: who sends saliencies.
        first_mask: as in ``SparseScheduler``; of it only ``initialize`` acts, by default the initial weights stay as
            drawn, since they were measured so.
    """

    def __init__(self, saliency: SaliencyStage | None = None, first_mask: FirstMask | None = None) -> None:
        super().__init__(first_mask or FirstMask(initialize=AsDrawn()))
        self.first_stage = saliency or SaliencyStage()

    def initial_mask(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> Tensor:
        assert found is not None
        return top_k(found, total_count(server.layout.sizes, server.density))
