"""The clients' weights become the server's: running sums, never a list of clients."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.kernels import add_integers_, chunk_size
from flash_pl.server.updates import ClientUpdate

# The accumulator counts in units of 2^-FRACTION of the whole weight, so the mean of weighted terms may reach +-LIMIT.
FRACTION = 40
LIMIT = 2.0 ** (62 - FRACTION)


class FedAvg(Stateful):
    """sum_i n_i theta_i / sum_i n_i over all coordinates, a pruned weight counting as 0.

    Source: McMahan et al. (AISTATS 2017), FLASH section "Aggregation".

    Every process of a run adds its own clients to its ``accumulator``; the sum of all accumulators is that of all
    clients. A subclass that sums more reserves more entries (``accumulator_size``) and puts an ``OrderFreeSum`` there.

    Args:
        by_samples: weigh clients by their number of samples n_i, or as the sampler asks (``ClientSampler.weights``);
            False gives all clients of a cohort the same weight (the FLASH authors' code).

    >>> import torch
    >>> from flash_pl.server import ClientUpdate
    >>> mask, densities = torch.ones(2, dtype=torch.bool), torch.ones(1, dtype=torch.float64)
    >>> average = FedAvg()
    >>> average.reset(server=torch.zeros(2), maskable=2, client_weights=[10, 30])
    >>> average.add(ClientUpdate(0, 10, mask, densities, densities), torch.tensor([1.0, 0.0]), mask)
    >>> average.add(ClientUpdate(1, 30, mask, densities, densities), torch.tensor([1.0, 2.0]), mask)
    >>> average.mean()
    tensor([1.0000, 1.5000])
    """

    accumulator: Tensor  # int64 [accumulator_size]

    def __init__(self, by_samples: bool = True) -> None:
        self.by_samples = by_samples

    def reset(self, server: Tensor, maskable: int, client_weights: Sequence[float]) -> None:
        """Start a round.

        Args:
            server: the server's arena ``[size]``.
            maskable: how many of its first weights can be masked.
            client_weights: ``ClientUpdate.weight`` of the whole cohort, over all processes: n_i.
        """
        self.server, self.maskable = server, maskable
        device = "cpu" if server.device.type == "mps" else server.device  # Apple's GPUs have no doubles
        size = self.accumulator_size(len(server), maskable)
        self.accumulator = torch.zeros(size, dtype=torch.int64, device=device)
        self.total_weight = max(sum(map(self.weight_of, client_weights)), 1.0)
        self.sum = OrderFreeSum(self.accumulator[: len(server)], self.total_weight)
        self.sum_of_weights = OrderFreeSum(self.accumulator[len(server) : len(server) + 1], self.total_weight)
        self.ones = torch.ones(1)

    def accumulator_size(self, size: int, maskable: int) -> int:
        """Number of sums that a round takes for an arena of ``size`` values."""
        return size + 1

    def add(self, update: ClientUpdate, arena: Tensor, offered: Tensor) -> None:
        """Add a client whose update is in time.

        Args:
            update: what it reports.
            arena: its weights ``[size]``, 0 outside ``update.mask``. The next client trains in this memory, so keep a
                copy of what you need, and do not change it.
            offered: the mask that it was sent, bool ``[maskable]``.

        Raises:
            OverflowError: a weight is not finite or not below 2^22 in magnitude; then nothing has been added.
        """
        client_weight = self.weight_of(update.weight)
        self.sum.add(arena, client_weight)
        self.sum_of_weights.add(self.ones, client_weight)

    def mean(self) -> Tensor:
        """The new server arena ``[size]``, in the server's dtype."""
        return self.sum.mean(self.sum_of_weights.value(), like=self.server)

    def weight_of(self, weight: float) -> float:
        """The weight in the sum of an update with this ``weight``."""
        return float(weight) if self.by_samples else 1.0


class ZeroingMaskedAverage(FedAvg):
    """sum_i n_i M_i theta_i / sum_i n_i M_i for each coordinate ("FMA"), for clients whose masks differ.

    A coordinate that is in no client's mask becomes 0 (the FLASH authors' code).
    """

    def reset(self, server: Tensor, maskable: int, client_weights: Sequence[float]) -> None:
        super().reset(server, maskable, client_weights)
        start = super().accumulator_size(len(server), maskable)
        self.mask_weights = OrderFreeSum(self.accumulator[start : start + maskable], self.total_weight)

    def accumulator_size(self, size: int, maskable: int) -> int:
        return super().accumulator_size(size, maskable) + maskable

    def add(self, update: ClientUpdate, arena: Tensor, offered: Tensor) -> None:
        super().add(update, arena, offered)
        self.mask_weights.add(update.mask.view(torch.uint8), self.weight_of(update.weight))

    def mean(self) -> Tensor:
        new, mask_weights = super().mean(), self.mask_weights.value()
        means = self.sum.value()[: self.maskable] / mask_weights.clamp(min=torch.finfo(mask_weights.dtype).tiny)
        new[: self.maskable] = means.to(new)
        return new


class MaskedAverage(ZeroingMaskedAverage):
    """As ``ZeroingMaskedAverage``, but a coordinate that no client was offered keeps the server's value.

    So with tiers a round of small devices leaves the larger devices' weights alone. A coordinate that clients were
    offered and that is in no reported mask becomes 0: all who had it have dropped it.

    >>> import torch
    >>> from flash_pl.server import ClientUpdate
    >>> offered = torch.tensor([True, True, False])
    >>> mask, densities = torch.tensor([True, False, False]), torch.ones(1, dtype=torch.float64)
    >>> average = MaskedAverage()
    >>> average.reset(server=torch.tensor([1.0, 2.0, 3.0]), maskable=3, client_weights=[10])
    >>> average.add(ClientUpdate(0, 10, mask, densities, densities), torch.tensor([1.5, 0.0, 0.0]), offered)
    >>> average.mean()
    tensor([1.5000, 0.0000, 3.0000])
    """

    def reset(self, server: Tensor, maskable: int, client_weights: Sequence[float]) -> None:
        super().reset(server, maskable, client_weights)
        self.seen_by = self.accumulator[super().accumulator_size(len(server), maskable) :]  # number of clients

    def accumulator_size(self, size: int, maskable: int) -> int:
        return super().accumulator_size(size, maskable) + maskable

    def add(self, update: ClientUpdate, arena: Tensor, offered: Tensor) -> None:
        super().add(update, arena, offered)
        self.seen_by.add_((offered | update.mask).to(self.seen_by.device))

    def mean(self) -> Tensor:
        new, unseen = super().mean(), (self.seen_by == 0).to(self.server.device)
        new[: self.maskable] = torch.where(unseen, self.server[: self.maskable], new[: self.maskable])
        return new


class OrderFreeSum:
    """sum_i a_i x_i over tensors x_i in 64-bit fixed point, equal for every order of the terms.

    Adding integers is exact, hence associative. Floating-point addition is not: the order of the clients, and so the
    number of processes, would show in the last bits. Each term is rounded once, to the nearest multiple of w 2^-40,
    where w is the weight of all terms rounded up to a power of two. The mean of K terms is off by at most K 2^-40,
    9e-12 for ten terms.

    Args:
        accumulator: int64 ``[n]`` of zeros, in which to sum. Sums of several processes are added by adding these.
        weight: at least the sum of all weights a_i that will come, over all processes.

    >>> import torch
    >>> total = OrderFreeSum(torch.zeros(2, dtype=torch.int64), weight=3.0)
    >>> total.add(torch.tensor([0.5, 1.0]), weight=1.0)
    >>> total.add(torch.tensor([0.5, -1.0]), weight=2.0)
    >>> total.value()
    tensor([ 1.5000, -1.0000], dtype=torch.float64)
    """

    def __init__(self, accumulator: Tensor, weight: float) -> None:
        self.accumulator = accumulator
        self.scale = 2.0 ** (FRACTION - math.ceil(math.log2(weight)))

    def add(self, values: Tensor, weight: float) -> None:
        """Add ``weight`` times ``values`` ``[n]``, of any type.

        Raises:
            OverflowError: a value is not finite or not below 2^22 in magnitude; then nothing has been added.
        """
        low, high = torch.stack(values.aminmax()).tolist() if len(values) else (0.0, 0.0)
        if not (-LIMIT < low and high < LIMIT):
            raise OverflowError(f"values from {low:g} to {high:g} do not fit a sum of values within +-{LIMIT:g}")
        add_integers_(self.accumulator, values, weight * self.scale)

    def mean(self, weight: Tensor, like: Tensor) -> Tensor:
        """The sum over ``weight`` (float64, one number), ``[n]`` of the type and device of ``like``."""
        mean, chunk = torch.empty(len(self.accumulator), dtype=like.dtype, device=like.device), chunk_size(like.device)
        for part, sums in zip(mean.split(chunk), self.accumulator.split(chunk), strict=True):
            part.copy_(sums.double().div_(self.scale).div_(weight))
        return mean

    def value(self) -> Tensor:
        """The sum, float64 ``[n]``."""
        return self.accumulator.double() / self.scale
