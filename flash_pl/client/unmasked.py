"""``forward`` by the kernels for layers that have no mask, where that is faster than torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flash_pl.kernels import batch_norm, max_pool2d, reaches
from flash_pl.kernels.geometry import pair

Forward = Callable[[Tensor], Tensor]


def pooling(pool: nn.MaxPool2d) -> Forward:
    """Max-pooling, unless windows do not overlap and images lie channels-last: torch is as fast there."""
    kernel, stride, padding = pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)
    overlapping = stride[0] < kernel[0] or stride[1] < kernel[1]

    def forward(x: Tensor) -> Tensor:
        if x.ndim != 4 or not x.numel() or not reaches(x) or not (overlapping or x.is_contiguous()):
            return nn.MaxPool2d.forward(pool, x)
        return max_pool2d(x, kernel, stride, padding)

    return forward


def normalising(norm: nn.BatchNorm2d) -> Forward:
    """Batch normalisation while training, in the layout that the sparse convolutions leave."""

    def forward(x: Tensor) -> Tensor:
        several = x.ndim == 4 and x.numel() > x.shape[1] > 0
        if not norm.training or not several or not reaches(x) or not x.is_contiguous():
            return nn.BatchNorm2d.forward(norm, x)
        y, mean, variance = batch_norm(x, norm.weight, norm.bias, norm.eps)
        _track(norm, mean, variance, x.numel() // x.shape[1])
        return y

    return forward


@torch.no_grad()
def _track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics towards a batch's; the variance as an estimate from ``count`` values."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    rate = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, rate)
    norm.running_var.lerp_(variance * (count / (count - 1)), rate)


UNMASKED: dict[type[nn.Module], Callable[[Any], Forward]] = {nn.MaxPool2d: pooling, nn.BatchNorm2d: normalising}
