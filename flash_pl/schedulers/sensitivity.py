"""Stage 1 of FLASH, sensitivity pre-training."""

from dataclasses import dataclass, field

from torch import Tensor

from flash_pl.report import Report
from flash_pl.schedulers.dst import DynamicSparseTraining
from flash_pl.schedulers.first_stage import FirstStage
from flash_pl.sparsity import FirstMask, Layout, Move


@dataclass(frozen=True)
class Sensitivity(FirstStage):
    """A few clients train long with dynamic sparse training; only their layer densities are used (FLASH stage 1).

    Args:
        init_fraction: as in ``FirstStage``.
        epochs: their local epochs E_d.
        prune_rate: p, the fraction dropped by the first move.
        move: how a mask moves.
    """

    epochs: int = 10
    prune_rate: float = 0.25
    move: Move = field(default_factory=Move)

    def trainee(self, first_mask: FirstMask) -> DynamicSparseTraining:
        return DynamicSparseTraining(self.prune_rate, self.move, first_mask)

    def size(self, layout: Layout) -> int:
        return len(layout.layers)

    def found(self, report: Report) -> Tensor:
        return report.densities
