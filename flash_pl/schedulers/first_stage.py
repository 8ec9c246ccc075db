"""What a method asks its clients before the first round."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from flash_pl.checks import check_integers
from flash_pl.errors import ConfigError
from flash_pl.report import Report
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.sparsity import FirstMask, Layout


@dataclass(frozen=True)
class FirstStage(ABC):
    """Some clients train for a while and send one tensor each; the method makes its first mask from the mean.

    Their weights are thrown away, so ``trainee`` may do to them whatever it likes.

    Args:
        init_fraction: share of all clients that take part; at least one does.

    Attributes:
        epochs: their local epochs.
        batches: batches of an epoch, None for all.
    """

    init_fraction: float = 0.1
    epochs: int = field(default=1, init=False)
    batches: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.init_fraction <= 1:
            raise ConfigError("init_fraction", self.init_fraction, "a number in (0, 1]")
        check_integers(epochs=self.epochs)
        check_integers(optional=True, batches=self.batches)

    def clients(self, clients: int) -> int:
        """How many of ``clients`` take part, C = max(1, int(init_frac * N))."""
        return max(1, int(self.init_fraction * clients))

    @abstractmethod
    def trainee(self, first_mask: FirstMask) -> SparseScheduler:
        """The client half of the method that they follow; its ``initial_mask`` is the one with which all start."""

    @abstractmethod
    def size(self, layout: Layout) -> int:
        """How many numbers a client sends."""

    @abstractmethod
    def found(self, report: Report) -> Tensor:
        """What a client sends, ``[size]``, below 2^22 in magnitude."""
