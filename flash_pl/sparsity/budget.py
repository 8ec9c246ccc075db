"""Device budgets: tiers of density, and the nested masks that serve them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.errors import ConfigError
from flash_pl.seeding import generator
from flash_pl.sparsity.density import allot
from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.select import top_k_by_layer


@dataclass(frozen=True)
class Tier:
    """A class of devices: the density they can afford and their share of all clients."""

    density: float
    share: float


class SparsityBudget:
    """Which density each client can afford (hetero-FLASH). A client keeps its tier for life.

    Args:
        tiers: (density, share) by increasing density; the last one is the server's own. None: all clients afford the
            server's density.
        clients: number of clients N; round(share * N) of them, drawn by the seed, belong to each tier.
        seed: the experiment's seed.

    Raises:
        ConfigError: densities that do not increase or leave (0, 1], shares that are not positive or do not sum to 1.
    """

    def __init__(self, tiers: Sequence[Tier], clients: int, seed: int = 0) -> None:
        densities = [tier.density for tier in tiers]
        if not tiers or not all(0 < d <= 1 for d in densities):
            raise ConfigError("budget.tiers", densities, "densities in (0, 1]")
        if any(a >= b for a, b in zip(densities, densities[1:], strict=False)):
            raise ConfigError("budget.tiers", densities, "densities that increase")
        shares = torch.tensor([tier.share for tier in tiers], dtype=torch.float64)
        if (shares <= 0).any() or abs(float(shares.sum()) - 1) > 1e-6:
            raise ConfigError("budget.tiers", shares.tolist(), "shares above 0 that sum to 1")
        self.tiers = tuple(tiers)
        counts = allot(shares * clients, torch.full((len(tiers),), clients), clients)
        tier_of_place = torch.arange(len(tiers)).repeat_interleave(counts)
        self._tier = tier_of_place[torch.randperm(clients, generator=generator(seed, "tiers"))].tolist()

    @property
    def density(self) -> float:
        """The server's density, that of the largest tier."""
        return self.tiers[-1].density

    def tier(self, client: int) -> int:
        """Index of the client's tier, 0 for the smallest."""
        return self._tier[client]

    def nest(self, layout: Layout, mask: Tensor, weights: Tensor) -> list[Tensor]:
        """One mask a tier, each inside the next larger one; the last is ``mask`` itself.

        Each layer's budget is the largest mask's in proportion; inside it the weights of largest magnitude are kept.
        """
        masks, largest = [mask], layout.counts(mask)
        capacity = largest
        for tier in reversed(self.tiers[:-1]):
            ratio = tier.density / self.density
            total = round(ratio * int(largest.sum()))
            capacity = allot(ratio * largest.double(), capacity, total)
            masks.append(top_k_by_layer(layout, weights.abs(), capacity, within=masks[-1]))
        return masks[::-1]
