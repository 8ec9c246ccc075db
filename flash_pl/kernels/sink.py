"""Gradients of active weights that never become dense tensors."""

from torch import Tensor

from flash_pl.kernels.library import library
from flash_pl.kernels.pattern import SparsePattern


class Sink:
    """Takes the gradient of a layer's active weights, float32 ``[pattern.count]``, summed over the layer's uses."""

    def __init__(self) -> None:
        self.pattern: SparsePattern | None = None
        self.gradient: Tensor | None = None

    def add(self, pattern: SparsePattern, gradient: Tensor) -> None:
        """Add the gradient of one use of the layer."""
        self.pattern = pattern
        self.gradient = gradient if self.gradient is None else self.gradient + gradient

    def step_(self, weight: Tensor, rate: float, decay: float) -> None:
        """A step of SGD with what has come: w <- w - rate (g + decay w) at the active weights."""
        native = library()
        if native is not None and self.pattern is not None and self.gradient is not None:
            index = self.pattern.index(weight.stride())
            native.update(
                weight.data_ptr(), index.data_ptr(), self.gradient.data_ptr(), self.pattern.count, rate, decay
            )

    def add_to_(self, gradient: Tensor) -> None:
        """Add what has come to a dense ``gradient`` of the weight's shape, a dense view of any memory format."""
        if self.pattern is not None and self.gradient is not None:
            flat = gradient.as_strided((gradient.numel(),), (1,))
            flat.index_add_(0, self.pattern.index(gradient.stride()), self.gradient)

    def clear(self) -> None:
        """Forget what has come."""
        self.pattern = self.gradient = None
