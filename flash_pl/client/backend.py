"""What computes the layers of a bound module."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from flash_pl.client.plain_sgd import PlainSGD


class Backend:
    """Torch's own kernels, which multiply by the zeros of a mask too; subclasses know better.

    A module keeps its class, its parameters and its hooks, whatever computes it while this is entered.

    Attributes:
        dense: compute with torch for the time being: gradients of pruned weights are wanted.
        sgd: takes an optimiser's steps for the layers that the kernels compute.
    """

    def __init__(self) -> None:
        self.dense = False
        self.sgd = PlainSGD([])

    def __enter__(self) -> "Backend":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def follow(self, mask: Tensor) -> None:
        """From now on the maskable weights outside of ``mask``, bool ``[maskable]``, are 0."""

    def eager(self) -> AbstractContextManager[None]:
        """While it is entered, layers are torch's single operations, which can be counted."""
        return nullcontext()
