"""How the clients' weights become the server's: running sums, never a list of clients."""

import torch
from torch import Tensor

from flash_pl.report import Report
from flash_pl.server.state import ServerState


class FedAvg:
    """sum_i n_i theta_i / sum_i n_i over all coordinates, a pruned weight counting as 0.

    Source: McMahan et al. (AISTATS 2017), FLASH section "Aggregation". Sums are in double precision.

    Args:
        by_samples: weigh clients by their number of samples n_i; False weighs all alike (the authors' code).
    """

    def __init__(self, by_samples: bool = True) -> None:
        self.by_samples = by_samples

    def reset(self, server: ServerState) -> None:
        """Start a round; ``server`` is as the clients received it."""
        self.server = server
        # Apple's GPUs have no doubles.
        self.dtype = torch.float32 if server.weights.device.type == "mps" else torch.float64
        self.total = torch.zeros_like(server.weights, dtype=self.dtype)
        self.weight = 0.0

    def update(self, report: Report, offered: Tensor) -> None:
        """Add a client, to whose tier the server ``offered`` a mask (bool ``[maskable]``)."""
        weight = self.weight_of(report)
        self.total.add_(report.weights, alpha=weight)
        self.weight += weight

    def compute(self) -> Tensor:
        """The new server arena ``[size]``, in the server's dtype."""
        return (self.total / self.weight).to(self.server.weights.dtype)

    def weight_of(self, report: Report) -> float:
        """A client's weight in the sum."""
        return float(report.samples) if self.by_samples else 1.0


class MaskedAverage(FedAvg):
    """Per coordinate sum_i n_i M_i theta_i / sum_i n_i M_i ("FMA"): needed when clients' masks differ.

    A coordinate that nobody holds keeps the server's value.
    """

    def reset(self, server: ServerState) -> None:
        super().reset(server)
        self.counted = torch.zeros(server.layout.maskable, dtype=self.dtype, device=server.weights.device)

    def update(self, report: Report, offered: Tensor) -> None:
        super().update(report, offered)
        self.counted.add_(self.counts(report, offered), alpha=self.weight_of(report))

    def counts(self, report: Report, offered: Tensor) -> Tensor:
        """The weights on which the client counts, bool ``[maskable]``."""
        return report.mask

    def compute(self) -> Tensor:
        new, maskable = super().compute(), self.server.layout.maskable
        head = (self.total[:maskable] / self.counted.clamp(min=torch.finfo(self.dtype).tiny)).to(new.dtype)
        new[:maskable] = torch.where(self.counted > 0, head, self.uncounted())
        return new

    def uncounted(self) -> Tensor:
        """The value of a weight on which no client of the round counts, ``[maskable]``."""
        return self.server.weights[: self.server.layout.maskable]


class ZeroingMaskedAverage(MaskedAverage):
    """As :class:`MaskedAverage`, but a coordinate that nobody holds becomes 0 (the authors' code)."""

    def uncounted(self) -> Tensor:
        return torch.zeros_like(super().uncounted())


class AbstainingAverage(MaskedAverage):
    """A client abstains on the weights of the server's mask that its tier was not offered and that it does not hold.

    On all others it counts, with 0 where it holds nothing: having dropped a weight is an opinion, not having been able
    to afford it is none. Where all have the same budget this is :class:`FedAvg`, where masks do not move it is
    :class:`MaskedAverage`. In between, a weight that one client alone has grown is not taken at its full value, as the
    masked average would.
    """

    def counts(self, report: Report, offered: Tensor) -> Tensor:
        return report.mask | offered | ~self.server.mask
