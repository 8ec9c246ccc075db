"""Sums that are the same whatever the order of their terms, so whatever process adds them up."""

import math

import torch
from torch import Tensor

# A sum of weighted terms is held in units of 2^-FRACTION of the whole weight, so their mean may reach +-LIMIT.
FRACTION = 40
LIMIT = 2.0 ** (62 - FRACTION)
# Terms are converted piece by piece: on a CPU a piece stays in the cache, elsewhere few are few kernels to launch.
PIECE, PIECE_ELSEWHERE = 1 << 16, 1 << 22


class OrderFreeSum:
    """sum_i a_i x_i over tensors x_i, in 64-bit fixed point: adding whole numbers is exact, hence associative.

    Floating-point addition is not: the order of the clients, and so the number of processes, would show in the last
    bits. Each term is rounded once, to the nearest multiple of w 2^-40, w being the weight of all terms rounded up to a
    power of two; the mean of K terms is thus off by at most K 2^-40, 9e-12 for ten.

    Args:
        units: int64 ``[n]`` of zeros, in which to sum; sums of several processes add up by adding these.
        weight: at least the sum of all weights a_i that will come, on all processes.
    """

    def __init__(self, units: Tensor, weight: float) -> None:
        self.units = units
        self.scale = 2.0 ** (FRACTION - math.ceil(math.log2(weight)))
        self.piece = PIECE if units.device.type == "cpu" else PIECE_ELSEWHERE
        self.floats = torch.empty(min(self.piece, len(units)), dtype=torch.float64, device=units.device)
        self.integers = torch.empty_like(self.floats, dtype=torch.int64)

    def add(self, values: Tensor, weight: float) -> None:
        """Add ``weight`` times ``values`` ``[n]``, of any type.

        Raises:
            OverflowError: a value that is not finite or not below 2^22 in magnitude; then nothing has been added.
        """
        low, high = torch.stack(values.aminmax()).tolist() if len(values) else (0.0, 0.0)
        if not (-LIMIT < low and high < LIMIT):
            raise OverflowError(f"values from {low:g} to {high:g} do not fit a sum of values within +-{LIMIT:g}")
        factor = weight * self.scale
        terms = values.to(self.units.device).split(self.piece)
        for units, piece in zip(self.units.split(self.piece), terms, strict=True):
            floats, integers = self.floats[: len(piece)], self.integers[: len(piece)]
            floats.copy_(piece)
            integers.copy_(floats.mul_(factor).round_())
            units.add_(integers)

    def mean(self, weight: Tensor, like: Tensor) -> Tensor:
        """The sum over ``weight`` (float64, one number), ``[n]`` of the type and device of ``like``."""
        found = torch.empty(len(self.units), dtype=like.dtype, device=like.device)
        for to, units in zip(found.split(self.piece), self.units.split(self.piece), strict=True):
            to.copy_(self.floats[: len(units)].copy_(units).div_(self.scale).div_(weight))
        return found

    def value(self) -> Tensor:
        """The sum, float64 ``[n]``."""
        return self.units.double() / self.scale
