"""One mask a tier, each inside the next larger one."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flash_pl.checks import check_numbers
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
    """Tiers of devices (hetero-FLASH). A client belongs to one tier for life, drawn by the seed.

    Args:
        tiers: by increasing density; the last one's is the server's own.

    Raises:
        ConfigError: densities that do not increase or leave (0, 1], shares that are not positive or do not sum to 1.
    """

    def __init__(self, tiers: Sequence[Tier]) -> None:
        tiers = [Tier(float(tier.density), float(tier.share)) for tier in tiers]
        densities = [tier.density for tier in tiers]
        if not tiers or not all(0 < d <= 1 for d in densities):
            raise ConfigError("tiers", densities, "densities in (0, 1]")
        if any(a >= b for a, b in zip(densities, densities[1:], strict=False)):
            raise ConfigError("tiers", densities, "densities that increase")
        shares = torch.tensor([tier.share for tier in tiers], dtype=torch.float64)
        if (shares <= 0).any() or abs(float(shares.sum()) - 1) > 1e-6:
            raise ConfigError("tiers", shares.tolist(), "shares above 0 that sum to 1")
        self.tiers = tuple(tiers)

    @classmethod
    def of(cls, density: float, budget: "SparsityBudget | None") -> "SparsityBudget":
        """The budget of a server of some ``density``; None gives every client that.

        Raises:
            ConfigError: no density, or another one than the ``budget``'s largest.
        """
        check_numbers(density=density)
        if not 0 < density <= 1:
            raise ConfigError("density", density, "a number in (0, 1]")
        if budget is not None and budget.density != density:
            raise ConfigError("budget", budget.density, f"a largest density of {density}, the server's")
        return budget or cls([Tier(density, 1.0)])

    @property
    def density(self) -> float:
        """The server's density, that of the largest tier."""
        return self.tiers[-1].density

    @property
    def ratios(self) -> list[float]:
        """The tiers' densities over the server's, increasing to 1."""
        return [tier.density / self.density for tier in self.tiers]

    def members(self, clients: int, seed: int) -> list[int] | None:
        """The tier of every client 0..N-1 for life, 0 for the smallest; None if clients have none.

        round(share * N) clients belong to each tier, but at least one as long as there are enough.
        """
        return self.deal(clients)[torch.randperm(clients, generator=generator(seed, "tiers"))].tolist()

    def tiers_of(self, cohort: Sequence[int], members: Sequence[int] | None, round: int) -> list[int]:
        """The tier of each client of a round's ``cohort``, given what ``members`` returned."""
        assert members is not None
        return [members[client] for client in cohort]

    def deal(self, places: int) -> torch.Tensor:
        """Tiers for ``places`` in increasing order, each as often as its share says, int64 ``[places]``."""
        shares = torch.tensor([tier.share for tier in self.tiers], dtype=torch.float64)
        counts = allot(shares * places, torch.full((len(shares),), places), places)
        return torch.arange(len(shares)).repeat_interleave(counts)


class PositionBudget(SparsityBudget):
    """The authors' code: a client's tier is its place in the cohort, the first ones get the smallest.

    Their three tiers of ten clients become shares of a cohort of any size. In round 0 everybody trains at full density.
    """

    def members(self, clients: int, seed: int) -> None:
        return None

    def tiers_of(self, cohort: Sequence[int], members: Sequence[int] | None, round: int) -> list[int]:
        return [len(self.tiers) - 1] * len(cohort) if round == 0 else self.deal(len(cohort)).tolist()


class FileBudget(SparsityBudget):
    """Every client's density from a CSV file: a header ``client,density``, then a line for each client 0..N-1.

    The densities that occur are the tiers.

    Raises:
        ConfigError: a file that cannot be read, or a line that is no client and density.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.density_of = self._read()
        values = list(self.density_of.values())
        super().__init__([Tier(d, values.count(d) / len(values)) for d in sorted(set(values))])

    def members(self, clients: int, seed: int) -> list[int]:
        """The tier of every client, as the file has it.

        Raises:
            ConfigError: a client that the file lacks, or one more than there are.
        """
        if odd := set(range(clients)) ^ self.density_of.keys():
            raise ConfigError("path", self.path, f"a line for each of the clients 0 to {clients - 1}; see {min(odd)}")
        tier = {tier.density: index for index, tier in enumerate(self.tiers)}
        return [tier[self.density_of[client]] for client in range(clients)]

    def _read(self) -> dict[int, float]:
        found: dict[int, float] = {}
        try:
            with open(Path(self.path).expanduser(), newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                for row in reader:
                    client, density = int(row["client"]), float(row["density"])
                    if client in found or not 0 < density <= 1:
                        raise ValueError
                    found[client] = density
        except OSError as error:
            raise ConfigError("path", self.path, "a CSV file that can be read") from error
        except (ValueError, KeyError, TypeError) as error:
            allowed = (
                f"a new client and a density in (0, 1] under the header client,density; see line {reader.line_num}"
            )
            raise ConfigError("path", self.path, allowed) from error
        if not found:
            raise ConfigError("path", self.path, "a line for each client under the header client,density")
        return found


def nested_masks(layout: Layout, mask: Tensor, weights: Tensor, ratios: Sequence[float]) -> list[Tensor]:
    """Nested masks of ``ratios`` times the active weights of ``mask`` (hetero-FLASH): the last one is ``mask`` itself.

    Each layer's budget is the largest mask's in proportion, rounded so that the total is exact, and none is left empty
    while the total allows one weight for each. Inside it the weights of largest magnitude are kept, ties by position.

    Args:
        layout: the plan of the arena.
        mask: of the largest tier, bool ``[layout.maskable]``.
        weights: the server's arena ``[layout.size]``, by whose magnitude weights are kept.
        ratios: increasing, in (0, 1], the last one 1.

    Returns:
        bool ``[layout.maskable]`` for each of the ratios.
    """
    masks, largest = [mask], layout.counts(mask)
    counts, magnitude = largest, weights.abs()
    for ratio in reversed(ratios[:-1]):
        counts = allot(ratio * largest.double(), counts, round(ratio * int(largest.sum())))
        masks.append(top_k_by_layer(layout, magnitude, counts, within=masks[-1]))
    return masks[::-1]
