"""How the clients' weights become the server's: running sums, never a list of clients."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.server.updates import Report

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


class FedAvg(Stateful):
    """sum_i n_i theta_i / sum_i n_i over all coordinates, a pruned weight counting as 0.

    Source: McMahan et al. (AISTATS 2017), FLASH section "Aggregation".

    The processes of a run each add up their own clients in ``units``; the sum of all their ``units`` is everybody's. A
    subclass that sums more than this asks for more room (``room``) and uses an ``OrderFreeSum`` in it.

    Args:
        by_samples: weigh clients by their number of samples n_i; False weighs all alike (the authors' code).
    """

    units: Tensor  # int64 [room]

    def __init__(self, by_samples: bool = True) -> None:
        self.by_samples = by_samples

    def reset(self, server: Tensor, maskable: int, samples: Sequence[int]) -> None:
        """Start a round.

        Args:
            server: the server's arena ``[size]``.
            maskable: the number of its first weights that have masks.
            samples: n_i of the whole cohort, on whatever process a client trains.
        """
        self.server, self.maskable = server, maskable
        device = "cpu" if server.device.type == "mps" else server.device  # Apple's GPUs have no doubles
        self.units = torch.zeros(self.room(len(server), maskable), dtype=torch.int64, device=device)
        self.bound = max(sum(map(self.weight_of, samples)), 1.0)
        self.total = OrderFreeSum(self.units[: len(server)], self.bound)
        self.weight = OrderFreeSum(self.units[len(server) : len(server) + 1], self.bound)
        self.one = torch.ones(1)

    def room(self, size: int, maskable: int) -> int:
        """How many sums a round takes."""
        return size + 1

    def update(self, report: Report) -> None:
        """Add a client.

        Raises:
            OverflowError: weights that are not finite or not below 2^22 in magnitude; then nothing has been added.
        """
        weight = self.weight_of(report.samples)
        self.total.add(report.weights, weight)
        self.weight.add(self.one, weight)

    def compute(self) -> Tensor:
        """The new server arena ``[size]``, in the server's dtype."""
        return self.total.mean(self.weight.value(), like=self.server)

    def weight_of(self, samples: int) -> float:
        """A client's weight in the sum."""
        return float(samples) if self.by_samples else 1.0


class MaskedAverage(FedAvg):
    """Per coordinate sum_i n_i M_i theta_i / sum_i n_i M_i ("FMA"): needed when clients' masks differ.

    A coordinate that nobody holds keeps the server's value.
    """

    def reset(self, server: Tensor, maskable: int, samples: Sequence[int]) -> None:
        super().reset(server, maskable, samples)
        self.holders = OrderFreeSum(self.units[len(server) + 1 :], self.bound)

    def room(self, size: int, maskable: int) -> int:
        return super().room(size, maskable) + maskable

    def update(self, report: Report) -> None:
        super().update(report)
        self.holders.add(report.mask.view(torch.uint8), self.weight_of(report.samples))

    def compute(self) -> Tensor:
        new, holders = super().compute(), self.holders.value()
        head = self.total.value()[: self.maskable] / holders.clamp(min=torch.finfo(holders.dtype).tiny)
        new[: self.maskable] = torch.where(holders > 0, head, self.unheld()).to(new)
        return new

    def unheld(self) -> Tensor:
        """The value of a weight that no client of the round holds, ``[maskable]``."""
        return self.server[: self.maskable].to(self.units.device)


class ZeroingMaskedAverage(MaskedAverage):
    """As ``MaskedAverage``, but a coordinate that nobody holds becomes 0 (the authors' code)."""

    def unheld(self) -> Tensor:
        return torch.zeros_like(super().unheld())
