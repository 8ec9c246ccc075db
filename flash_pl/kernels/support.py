"""Which layers the kernels compute, and from which density on that is faster than torch."""

import torch
from torch import Tensor, nn

from flash_pl.kernels.geometry import pair
from flash_pl.kernels.pool import LARGEST_WINDOW

# Where sparse and dense torch take the same time, with a margin, by benchmarks/speed/layers.py at batch 32.
CONV = 0.4
FEW = (32, 16)  # outputs and inputs below which torch's convolutions are slow enough for any density
LINEAR = ((1 << 17, 0.2), (1 << 15, 0.08))  # at least so many weights, up to this density
SMALLEST_BATCH = 8  # rows of a linear layer; fewer leave most of a vector empty


def computes(module: nn.Module) -> bool:
    """Whether the kernels have this layer, whatever its input: a Conv2d, Linear, MaxPool2d or BatchNorm2d itself."""
    if type(module) is nn.Conv2d:
        plain = module.groups == 1 and tuple(module.dilation) == (1, 1) and module.padding_mode == "zeros"
        return plain and not isinstance(module.padding, str)
    if type(module) is nn.MaxPool2d:
        height, width = pair(module.kernel_size)
        plain = pair(module.dilation) == (1, 1) and not module.ceil_mode and not module.return_indices
        return plain and height * width <= LARGEST_WINDOW
    if type(module) is nn.BatchNorm2d:
        return module.affine
    return type(module) is nn.Linear


def reaches(x: Tensor) -> bool:
    """Whether the kernels can read this input: float32 on the CPU, not under autocast."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def worthwhile(weight: torch.Size, density: float, batch: int) -> bool:
    """Whether the kernels beat dense torch, forward and backward together.

    Args:
        weight: of a convolution ``[outputs, inputs, kernel_h, kernel_w]`` or a linear layer ``[outputs, inputs]``.
        density: of its mask.
        batch: images, or rows of a linear layer's input.

    >>> worthwhile(torch.Size([64, 64, 3, 3]), 0.1, batch=32), worthwhile(torch.Size([50, 5120]), 0.5, batch=32)
    (True, False)
    """
    if len(weight) == 4:
        return density <= CONV or (weight[0] < FEW[0] and weight[1] < FEW[1])
    limit = max((limit for least, limit in LINEAR if weight.numel() >= least), default=0.0)
    return batch >= SMALLEST_BATCH and density <= limit
