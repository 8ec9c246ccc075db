"""Which layers the kernels can compute, and for which networks and layers they are faster than torch."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from flash_pl.kernels.geometry import pair
from flash_pl.kernels.pool import LARGEST_WINDOW

# Densities up to which the kernels are faster than dense torch, with a margin; benchmarks/speed at batch 32.
CONV = 0.4
FEW = (32, 16)  # with fewer outputs and inputs torch's convolution is so slow that the kernels win at any density
# (smallest number of weights, largest density); a mask made for density 0.2 can have a little more.
LINEAR = ((1 << 17, 0.21), (1 << 15, 0.085))
SMALLEST_BATCH = 8  # rows of a linear layer's input; fewer rows leave most of a vector empty


def computes(module: nn.Module) -> bool:
    """Return whether the kernels have this layer, whatever its input.

    They have Conv2d, Linear, MaxPool2d and BatchNorm2d themselves, but no subclasses and not all of their options.
    Dropout counts too: it has to draw in the same order as for torch's results.

    >>> computes(nn.Conv2d(3, 8, 3)), computes(nn.Conv2d(3, 8, 3, dilation=2))
    (True, False)
    """
    if type(module) is nn.Conv2d:
        plain = tuple(module.dilation) == (1, 1) and module.padding_mode == "zeros"
        return plain and not isinstance(module.padding, str)
    if type(module) is nn.MaxPool2d:
        height, width = pair(module.kernel_size)
        plain = pair(module.dilation) == (1, 1) and not module.ceil_mode and not module.return_indices
        return plain and height * width <= LARGEST_WINDOW
    if type(module) is nn.BatchNorm2d:
        return module.affine
    return type(module) in (nn.Linear, nn.Dropout)


def reaches(x: Tensor) -> bool:
    """Return whether the kernels can read this input: float32 on the CPU, outside of autocast.

    Transforms of ``torch.func`` and forward-mode derivatives need torch's own operations.

    >>> reaches(torch.zeros(2)), reaches(torch.zeros(2, dtype=torch.float64))
    (True, False)
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    return not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0


def images_worthwhile(layers: Iterable[tuple[torch.Size, float]]) -> bool:
    """Return whether the kernels compute a network's convolutions faster than dense torch.

    Either they compute all of them, and images stay in the kernels' layout from layer to layer, or torch does.

    Args:
        layers: shape of the weight ``[outputs, inputs, kernel_h, kernel_w]`` and density of each convolution.

    >>> images_worthwhile([(torch.Size([64, 3, 3, 3]), 1.0), (torch.Size([64, 64, 3, 3]), 0.1)])
    True
    """
    layers = list(layers)
    weights, active = sum(size.numel() for size, _ in layers), sum(size.numel() * density for size, density in layers)
    few = all(size[0] < FEW[0] and size[1] < FEW[1] for size, _ in layers)
    return few or active <= CONV * weights


def linear_worthwhile(weight: torch.Size, density: float, rows: int) -> bool:
    """Return whether forward and backward pass of a linear layer are faster with the kernels than with dense torch.

    Args:
        weight: its shape, ``[outputs, inputs]``.
        density: of its mask.
        rows: of the layer's input.

    >>> [linear_worthwhile(torch.Size([50, 5120]), density, rows=32) for density in (0.05, 0.5)]
    [True, False]
    """
    limit = max((limit for least, limit in LINEAR if weight.numel() >= least), default=0.0)
    return rows >= SMALLEST_BATCH and density <= limit
