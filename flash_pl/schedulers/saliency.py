"""Saliencies of the dense weights, before the first round."""

from dataclasses import dataclass

from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.report import Report
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.schedulers.dense import Dense
from flash_pl.schedulers.first_stage import FirstStage
from flash_pl.sparsity import FirstMask, Layout, Saliency, Seen

SCALE = 2.0**12  # averages are in fixed point: saliencies are small


class SaliencyTrainee(Dense):
    """Measures |g w| on a client's first batch, at the server's dense weights."""

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        self.scores: Tensor | None = None

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        if step == 0:
            self.scores = Saliency().scores(Seen(client.layout, client.weights, client.gradients()))

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
