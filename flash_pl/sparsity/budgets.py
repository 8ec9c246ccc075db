"""Density budgets of heterogeneous devices: tiers of clients, and one nested mask per tier."""

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
    """A class of devices: the density that they can afford, and their share of all clients.

    >>> Tier(density=0.05, share=0.3).density
    0.05
    """

    density: float
    share: float


class SparsityBudget:
    """Tiers of devices (hetero-FLASH). A client stays in its tier for the whole run; the seed decides which tier.

    Args:
        tiers: the tiers by increasing density. The density of the last tier is the server's.

    Raises:
        ConfigError: the densities do not increase or are not in (0, 1], or the shares are not above 0 with the sum 1.

    >>> budget = SparsityBudget([Tier(density=0.05, share=0.25), Tier(density=0.1, share=0.75)])
    >>> budget.density, budget.ratios
    (0.1, [0.5, 1.0])
    >>> tiers = budget.assign_tiers(clients=8, seed=1)
    >>> tiers.count(0), tiers.count(1)
    (2, 6)
    >>> budget.tiers_of([5, 3], tiers, round=0) == [tiers[5], tiers[3]]
    True
    """

    def __init__(self, tiers: Sequence[Tier]) -> None:
        tiers = [Tier(float(tier.density), float(tier.share)) for tier in tiers]
        densities, shares = [tier.density for tier in tiers], [tier.share for tier in tiers]
        if not tiers:
            raise ConfigError("tiers", "the list is empty", "give at least one tier with a density and a share")
        if not all(0 < density <= 1 for density in densities):
            raise ConfigError("tiers", f"the densities {densities} are not all in (0, 1]")
        if any(a >= b for a, b in zip(densities, densities[1:], strict=False)):
            raise ConfigError("tiers", f"the densities {densities} do not increase", "list the tiers by density")
        if not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            raise ConfigError("tiers", f"the shares {shares} are not all above 0 with the sum 1")
        self.tiers = tuple(tiers)

    @classmethod
    def of(cls, density: float, budget: "SparsityBudget | None") -> "SparsityBudget":
        """Return ``budget``, or the budget that gives every client the server's ``density`` if ``budget`` is None.

        Raises:
            ConfigError: ``density`` is not in (0, 1], or it differs from the largest density of ``budget``.
        """
        check_numbers("(0, 1]", density=density)
        if budget is not None and budget.density != density:
            problem = f"its largest density {budget.density} is not the server's density {density}"
            raise ConfigError("budget", problem, "set density to the largest density of the tiers")
        return budget or cls([Tier(density, 1.0)])

    @property
    def density(self) -> float:
        """Density of the server: the density of the largest tier."""
        return self.tiers[-1].density

    @property
    def ratios(self) -> list[float]:
        """Density of each tier divided by the server's density, increasing to 1."""
        return [tier.density / self.density for tier in self.tiers]

    def check_layout(self, layout: Layout) -> None:
        """Check that the smallest tier has a weight of a model of this layout.

        Raises:
            ConfigError: it has none.
        """
        density, dearest = self.tiers[0].density, float(layout.prices.max())
        if layout.budget(density) < dearest:
            problem = f"{density:g} of {layout.maskable} maskable weights is less than one weight"
            if dearest > 1:
                of_one = f"the {dearest:,.0f} of one weight of {layout.layers[int(layout.prices.argmax())].name}"
                problem = f"{density:g} of {float(layout.costs.sum()):,.0f} multiply-adds is less than {of_one}"
            raise ConfigError("density", problem, "use a larger density")

    def assign_tiers(self, clients: int, seed: int) -> list[int] | None:
        """Return the tier of each client 0..N-1, 0 for the smallest, or None if clients have no fixed tier.

        A tier gets round(share * N) clients, but at least one if there are enough clients.
        """
        return self.tiers_in_order(clients)[torch.randperm(clients, generator=generator(seed, "tiers"))].tolist()

    def tiers_of(self, cohort: Sequence[int], client_tiers: Sequence[int] | None, round: int) -> list[int]:
        """Return the tier of each client of a round's cohort; ``client_tiers`` is the result of ``assign_tiers``."""
        assert client_tiers is not None
        return [client_tiers[client] for client in cohort]

    def tiers_in_order(self, clients: int) -> Tensor:
        """Return tiers for ``clients`` places in increasing order, each as often as its share, int64 ``[clients]``."""
        shares = torch.tensor([tier.share for tier in self.tiers], dtype=torch.float64)
        counts = allot(shares * clients, torch.full((len(shares),), clients), clients)
        return torch.arange(len(shares)).repeat_interleave(counts)


class PositionBudget(SparsityBudget):
    """Tiers by position in the cohort: the first clients of a cohort get the smallest tier, as in the authors' code.

    The authors' three tiers of ten clients are shares of a cohort of any size here. In round 0 all clients train at the
    server's density.

    >>> budget = PositionBudget([Tier(density=0.05, share=0.5), Tier(density=0.1, share=0.5)])
    >>> budget.tiers_of([7, 3, 8, 1], None, round=0), budget.tiers_of([7, 3, 8, 1], None, round=1)
    ([1, 1, 1, 1], [0, 0, 1, 1])
    """

    def assign_tiers(self, clients: int, seed: int) -> None:
        return None

    def tiers_of(self, cohort: Sequence[int], client_tiers: Sequence[int] | None, round: int) -> list[int]:
        return [len(self.tiers) - 1] * len(cohort) if round == 0 else self.tiers_in_order(len(cohort)).tolist()


class FileBudget(SparsityBudget):
    """The density of each client from a CSV file: the header ``client,density``, then one line for each client 0..N-1.

    Each density of the file is one tier.

    Raises:
        ConfigError: the file cannot be read, or a line is not a client and its density.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as table:
    ...     _ = table.write("client,density\\n0,0.05\\n1,0.1\\n2,0.05\\n")
    ...     table.flush()
    ...     budget = FileBudget(table.name)
    >>> budget.assign_tiers(clients=3, seed=1)
    [0, 1, 0]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.density_of = self._read()
        densities = list(self.density_of.values())
        super().__init__([Tier(d, densities.count(d) / len(densities)) for d in sorted(set(densities))])

    def assign_tiers(self, clients: int, seed: int) -> list[int]:
        """Return the tier of each client according to the file.

        Raises:
            ConfigError: a client has no line, or a line has no client.
        """
        if unmatched := set(range(clients)) ^ self.density_of.keys():
            client = min(unmatched)
            extra = client in self.density_of
            problem = f"a line for client {client}, which does not exist" if extra else f"no line for client {client}"
            hint = f"give one line for each of the clients 0 to {clients - 1}"
            raise ConfigError("path", f"{self.path!r} has {problem}", hint)
        tier = {tier.density: index for index, tier in enumerate(self.tiers)}
        return [tier[self.density_of[client]] for client in range(clients)]

    def _read(self) -> dict[int, float]:
        hint = "after the header client,density give one line for each client with a density in (0, 1]"
        densities: dict[int, float] = {}
        try:
            with open(Path(self.path).expanduser(), newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                for row in reader:
                    client, density = int(row["client"]), float(row["density"])
                    if client in densities or not 0 < density <= 1:
                        raise ValueError
                    densities[client] = density
        except OSError as error:
            raise ConfigError("path", f"{self.path!r} cannot be read", "give a CSV file") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError("path", f"line {reader.line_num} of {self.path!r} is not valid", hint) from error
        if not densities:
            raise ConfigError("path", f"{self.path!r} has no clients", hint)
        return densities


def nested_masks(layout: Layout, mask: Tensor, weights: Tensor, ratios: Sequence[float]) -> list[Tensor]:
    """Return masks that cost ``ratios`` times what ``mask`` costs, each mask inside the next one (hetero-FLASH).

    Every layer shrinks in proportion, rounded to the total; each layer keeps at least one weight if the total allows
    it. The weights of largest magnitude are kept, and of equal magnitudes the first.

    Args:
        layout: the layout of the arena.
        mask: mask of the largest tier, bool ``[layout.maskable]``.
        weights: arena of the server, ``[layout.size]``.
        ratios: increasing numbers in (0, 1], the last one is 1.

    Returns:
        A mask, bool ``[layout.maskable]``, for each ratio. The last one is ``mask`` itself.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 2, bias=False))
    >>> weights = torch.tensor([0.1, -0.8, 0.3, 0.0, 0.5, 0.0, 0.0, 0.2])
    >>> smaller, larger = nested_masks(layout, weights != 0, weights, [0.4, 1.0])
    >>> smaller.nonzero().flatten().tolist(), larger.nonzero().flatten().tolist()
    ([1, 4], [0, 1, 2, 4, 7])
    """
    masks, largest = [mask], layout.counts(mask)
    counts, magnitude, prices = largest, weights.abs(), layout.prices
    cost = float((largest * prices).sum())
    for ratio in reversed(ratios[:-1]):
        counts = allot(ratio * largest.double(), counts, layout.whole(ratio * cost), prices=prices)
        masks.append(top_k_by_layer(layout, magnitude, counts, within=masks[-1]))
    return masks[::-1]
