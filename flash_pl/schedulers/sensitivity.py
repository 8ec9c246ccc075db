"""Stage 1 of FLASH, sensitivity pre-training."""

from dataclasses import dataclass, field

from torch import Tensor

from flash_pl.errors import ConfigError
from flash_pl.report import Report
from flash_pl.schedulers.dst import DynamicSparseTraining
from flash_pl.schedulers.first_stage import FirstStage
from flash_pl.sparsity import FirstMask, Layout, Move


@dataclass(frozen=True)
class Sensitivity(FirstStage):
    """A few clients train long with dynamic sparse training; only their layer densities are used (FLASH stage 1).

    Args:
        init_fraction: share of all clients that take part; at least one does.
        epochs: their local epochs E_d.
        prune_rate: p, the fraction dropped by the first move.
        move: how a mask moves.
    """

    init_fraction: float = 0.1
    epochs: int = 10
    prune_rate: float = 0.25
    move: Move = field(default_factory=Move)

    def __post_init__(self) -> None:
        if not 0 < self.init_fraction <= 1:
            raise ConfigError("init_fraction", self.init_fraction, "a number in (0, 1]")
        if self.epochs < 1:
            raise ConfigError("epochs", self.epochs, "an integer of at least 1")

    def clients(self, clients: int) -> int:
        """C = max(1, int(init_frac * N))."""
        return max(1, int(self.init_fraction * clients))

    def trainee(self, first_mask: FirstMask) -> DynamicSparseTraining:
        return DynamicSparseTraining(self.prune_rate, self.move, first_mask)

    def size(self, layout: Layout) -> int:
        return len(layout.layers)

    def found(self, report: Report) -> Tensor:
        return report.densities
