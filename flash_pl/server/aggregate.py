"""How the clients' weights become the server's: running sums, never a list of clients."""

import torch
from torch import Tensor

from flash_pl.report import Report


class FedAvg:
    """sum_i n_i theta_i / sum_i n_i over all coordinates, a pruned weight counting as 0.

    Source: McMahan et al. (AISTATS 2017), FLASH section "Aggregation". Sums are in double precision.

    Args:
        by_samples: weigh clients by their number of samples n_i; False weighs all alike (the authors' code).
    """

    def __init__(self, by_samples: bool = True) -> None:
        self.by_samples = by_samples

    def reset(self, server: Tensor, maskable: int) -> None:
        """Start a round; ``server`` is the server's arena ``[size]``, whose first ``maskable`` weights have masks."""
        self.server, self.maskable = server, maskable
        self.dtype = torch.float32 if server.device.type == "mps" else torch.float64  # Apple's GPUs have no doubles
        self.total = torch.zeros_like(server, dtype=self.dtype)
        self.weight = 0.0

    def update(self, report: Report) -> None:
        """Add a client."""
        weight = self.weight_of(report)
        self.total.add_(report.weights, alpha=weight)
        self.weight += weight

    def compute(self) -> Tensor:
        """The new server arena ``[size]``, in the server's dtype."""
        return (self.total / self.weight).to(self.server.dtype)

    def weight_of(self, report: Report) -> float:
        """A client's weight in the sum."""
        return float(report.samples) if self.by_samples else 1.0


class MaskedAverage(FedAvg):
    """Per coordinate sum_i n_i M_i theta_i / sum_i n_i M_i ("FMA"): needed when clients' masks differ.

    A coordinate that nobody holds keeps the server's value.
    """

    def reset(self, server: Tensor, maskable: int) -> None:
        super().reset(server, maskable)
        self.holders = torch.zeros(maskable, dtype=self.dtype, device=server.device)

    def update(self, report: Report) -> None:
        super().update(report)
        self.holders.add_(report.mask, alpha=self.weight_of(report))

    def compute(self) -> Tensor:
        new = super().compute()
        head = (self.total[: self.maskable] / self.holders.clamp(min=torch.finfo(self.dtype).tiny)).to(new.dtype)
        new[: self.maskable] = torch.where(self.holders > 0, head, self.unheld())
        return new

    def unheld(self) -> Tensor:
        """The value of a weight that no client of the round holds, ``[maskable]``."""
        return self.server[: self.maskable]


class ZeroingMaskedAverage(MaskedAverage):
    """As :class:`MaskedAverage`, but a coordinate that nobody holds becomes 0 (the authors' code)."""

    def unheld(self) -> Tensor:
        return torch.zeros_like(self.server[: self.maskable])
