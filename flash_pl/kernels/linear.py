"""Linear layer whose time follows the number of active weights."""

import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels.conv import convolved
from flash_pl.kernels.geometry import ConvShape, Plan
from flash_pl.kernels.library import available, check_layer, warn_missing
from flash_pl.kernels.pattern import SparsePattern
from flash_pl.kernels.sink import Sink


def sparse_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: SparsePattern,
    plan: Plan | None = None,
    sink: Sink | None = None,
) -> Tensor:
    """``x @ weight.T + bias`` over the active weights; to the kernels a 1x1 convolution of a 1x1 image.

    Weights outside of the pattern count as zero, whatever they hold; their gradient is zero.

    Args:
        x: float32 ``[..., inputs]`` on the CPU.
        weight: float32 ``[outputs, inputs]``, of any memory format.
        bias: float32 ``[outputs]`` or None.
        pattern: of the weight's shape.
        plan: which rows share a vector; by default the fastest.
        sink: takes the gradient of the weight in place of autograd.

    Returns:
        ``[..., outputs]``, contiguous.

    Raises:
        ValueError: shapes, types or devices that the kernels do not support.
    """
    if torch.is_autocast_enabled("cpu"):
        x = x.float()
    check_layer(x, weight, bias, pattern, dimensions=2)
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x {list(x.shape)} does not end with the weight's {weight.shape[1]} inputs")
    if not available():
        warn_missing()
        with torch.autocast("cpu", enabled=False):
            return F.linear(x, pattern.masked(weight), bias)
    if min(weight.shape) < 1:
        raise ValueError(f"a weight {list(weight.shape)} has no elements")
    rows = x.reshape(-1, x.shape[-1], 1, 1)
    shape = ConvShape(x.shape[-1], (1, 1), weight.shape[0], (1, 1), (1, 1), (0, 0))
    y = convolved(rows, weight, bias, pattern, shape, plan, sink)
    return y.view(*x.shape[:-1], weight.shape[0])
