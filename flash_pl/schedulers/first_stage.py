"""What a method asks its clients before the first round."""

from abc import ABC, abstractmethod

from torch import Tensor

from flash_pl.report import Report
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.sparsity import FirstMask, Layout


class FirstStage(ABC):
    """Some clients train for a while and send one tensor each; the method makes its first mask from the mean.

    Their weights are thrown away, so ``trainee`` may do to them whatever it likes.

    Attributes:
        epochs: their local epochs.
        batches: batches of an epoch, None for all.
    """

    epochs: int = 1
    batches: int | None = None

    @abstractmethod
    def clients(self, clients: int) -> int:
        """How many of ``clients`` take part, at least one."""

    @abstractmethod
    def trainee(self, first_mask: FirstMask) -> SparseScheduler:
        """The client half of the method that they follow; its ``initial_mask`` is the one with which all start."""

    @abstractmethod
    def size(self, layout: Layout) -> int:
        """How many numbers a client sends."""

    @abstractmethod
    def found(self, report: Report) -> Tensor:
        """What a client sends, ``[size]``, below 2^22 in magnitude."""
