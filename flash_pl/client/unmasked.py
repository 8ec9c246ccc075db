"""``forward`` by the kernels for layers that have no mask, where that is faster than torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flash_pl.client.forward import Forward
from flash_pl.kernels import batch_norm, max_pool2d, reaches
from flash_pl.kernels.geometry import pair


class Pooling(Forward[nn.MaxPool2d]):
    """Max-pooling, unless windows do not overlap and images lie channels-last: torch is as fast there."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        super().__init__(module)
        self.kernel, self.stride, self.padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)
        self.overlapping = self.stride[0] < self.kernel[0] or self.stride[1] < self.kernel[1]

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or not x.numel() or not reaches(x) or not (self.overlapping or x.is_contiguous()):
            return nn.MaxPool2d.forward(self.module, x)
        return max_pool2d(x, self.kernel, self.stride, self.padding)


class Normalising(Forward[nn.BatchNorm2d]):
    """Batch normalisation while training, in the layout that the sparse convolutions leave."""

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.module
        several = x.ndim == 4 and x.numel() > x.shape[1] > 0
        if not norm.training or not several or not reaches(x) or not x.is_contiguous():
            return nn.BatchNorm2d.forward(norm, x)
        y, mean, variance = batch_norm(x, norm.weight, norm.bias, norm.eps)
        _track(norm, mean, variance, x.numel() // x.shape[1])
        return y


@torch.no_grad()
def _track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics towards a batch's; the variance as an estimate from ``count`` values."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    rate = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, rate)
    norm.running_var.lerp_(variance * (count / (count - 1)), rate)


UNMASKED: dict[type[nn.Module], Callable[[Any], Forward[Any]]] = {
    nn.MaxPool2d: Pooling,
    nn.BatchNorm2d: Normalising,
}
