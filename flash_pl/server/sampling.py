"""Cohorts from a file."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from flash_pl.checkpoint import Stateful
from flash_pl.errors import ConfigError
from flash_pl.seeding import generator


@dataclass(frozen=True)
class Population:
    """What a sampler knows of all clients: ``samples`` are their n_i, ``tiers`` their tiers for life, if they have."""

    samples: tuple[int, ...]
    tiers: tuple[int, ...] | None = None

    @property
    def clients(self) -> int:
        """Number of clients N."""
        return len(self.samples)


class ClientSampler(Stateful, ABC):
    """Draws the cohort of a round: distinct client ids, in the order in which they are trained.

    It may be smaller than asked for, even empty; the server then stays as it is.
    """

    def check(self, population: Population, cohort: int, rounds: int) -> None:
        """Before the first round.

        Raises:
            ConfigError: this sampler cannot serve these clients; keys are its own init args, or ``cohort``.
        """

    @abstractmethod
    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        """``cohort`` clients for ``round``, a fixed function of the arguments."""


class UniformSampler(ClientSampler):
    """Each client equally likely, without replacement."""

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        return torch.randperm(population.clients, generator=generator(seed, "cohort", round))[:cohort].tolist()


class SampleWeightedSampler(ClientSampler):
    """Without replacement, each draw in proportion to the numbers of samples n_i of the clients that are left."""

    def check(self, population: Population, cohort: int, rounds: int) -> None:
        """See ``ClientSampler``: enough clients must have samples, others are never drawn."""
        able = sum(samples > 0 for samples in population.samples)
        if cohort > able:
            raise ConfigError("cohort", cohort, f"at most the number of clients that have samples, {able}")

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        weights = torch.tensor(population.samples, dtype=torch.float64)
        return torch.multinomial(weights, cohort, generator=generator(seed, "cohort", round)).tolist()


class RoundRobinSampler(ClientSampler):
    """In the order of their ids, a whole turn before anyone comes again."""

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        return [(round * cohort + place) % population.clients for place in range(cohort)]


class AvailabilitySampler(ClientSampler):
    """Uniform among the clients that are online in the round; where they are fewer than the cohort, all of them.

    Stage 1 asks clients of all tiers.

    Args:
        offline: for each tier, from the smallest, the probability that a client of it is offline in a round.

    Raises:
        ConfigError: no numbers in [0, 1], or nobody ever online.
    """

    def __init__(self, offline: Sequence[float]) -> None:
        if not all(0 <= chance <= 1 for chance in offline) or all(chance == 1 for chance in offline):
            raise ConfigError("offline", list(offline), "probabilities in [0, 1], not all of them 1")
        self.offline = tuple(offline)

    def check(self, population: Population, cohort: int, rounds: int) -> None:
        """See ``ClientSampler``: clients must have a tier for life, and each tier a probability."""
        if population.tiers is None:
            raise ConfigError("offline", list(self.offline), "a budget in which clients keep their tier")
        tiers = 1 + max(population.tiers)
        if tiers != len(self.offline):
            raise ConfigError("offline", list(self.offline), f"one probability for each of the {tiers} tiers")

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        assert population.tiers is not None
        draws = torch.rand(population.clients, generator=generator(seed, "availability", round), dtype=torch.float64)
        online = draws >= torch.tensor([self.offline[tier] for tier in population.tiers], dtype=torch.float64)
        order = torch.randperm(population.clients, generator=generator(seed, "cohort", round))
        return order[online[order]][:cohort].tolist()


class TraceSampler(ClientSampler):
    """The cohorts of a recorded trace, whatever their size.

    Args:
        path: a text file with one line a round: client ids, separated by blanks or commas; an empty line is a round in
            which nobody takes part.

    Raises:
        ConfigError: a file that cannot be read, or a line that holds anything but distinct client ids.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("path", self.path, "a text file that can be read") from error
        self.cohorts = [self._cohort(number, line) for number, line in enumerate(lines, start=1)]

    def _cohort(self, number: int, line: str) -> list[int]:
        fields = line.replace(",", " ").split()
        clients = [int(field) for field in fields if field.isascii() and field.isdigit()]
        if len(set(clients)) < len(fields):
            raise ConfigError("path", self.path, f"distinct client ids in every line; see line {number}")
        return clients

    def check(self, population: Population, cohort: int, rounds: int) -> None:
        """See ``ClientSampler``: a line for every round, and no client that does not exist."""
        if rounds > len(self.cohorts):
            raise ConfigError("path", self.path, f"a line for each of the {rounds} rounds; it has {len(self.cohorts)}")
        for number, clients in enumerate(self.cohorts, start=1):
            if clients and max(clients) >= population.clients:
                allowed = f"clients 0 to {population.clients - 1}; see line {number}"
                raise ConfigError("path", self.path, allowed)

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        return self.cohorts[round]
