"""Samplers choose the clients that take part in a round."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.seeding import generator
from flash_pl.sparsity import water_fill


@dataclass(frozen=True)
class Population:
    """The facts of all clients.

    Args:
        samples: n_i, the number of training samples of each client.
        tiers: of each client, where clients keep their tier; None where tiers change from round to round.

    >>> Population(samples=(10, 20, 30)).clients
    3
    """

    samples: tuple[int, ...]
    tiers: tuple[int, ...] | None = None

    @property
    def clients(self) -> int:
        """Number of clients N."""
        return len(self.samples)


class ClientSampler(Stateful, ABC):
    """Draws the cohort of a round: distinct client ids, in the order in which they are trained.

    A cohort may be smaller than asked for. In a round with an empty cohort the server stays as it is.

    >>> class Largest(ClientSampler):
    ...     def __call__(self, population, cohort, seed, round):
    ...         return sorted(range(population.clients), key=lambda client: -population.samples[client])[:cohort]
    >>> Largest()(Population(samples=(10, 30, 20)), cohort=2, seed=1, round=0)
    [1, 2]
    """

    def check(self, population: Population, cohort: int, rounds: int) -> None:
        """Check before the first round that this sampler can serve these clients.

        Raises:
            ConfigError: it cannot; the key is one of its own init args, or ``cohort``.
        """

    def weights(self, population: Population, cohort: int) -> Sequence[float]:
        """The weight of every client of the population in averages and votes by samples.

        The weighted mean of a cohort estimates the mean over all samples if the weight is, up to a factor, n_i over the
        probability of being drawn. By default n_i: all clients are equally likely.
        """
        return population.samples

    @abstractmethod
    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        """``cohort`` clients for ``round``, a pure function of the arguments."""


class UniformSampler(ClientSampler):
    """Draws every client with equal probability, without replacement.

    >>> UniformSampler()(Population(samples=(10,) * 100), cohort=3, seed=1, round=0)
    [27, 79, 13]
    """

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        return torch.randperm(population.clients, generator=generator(seed, "cohort", round))[:cohort].tolist()


class SampleWeightedSampler(ClientSampler):
    """Draws clients with a probability in proportion to their numbers of samples n_i, without replacement.

    Averages then estimate the mean over all samples (docs/estimators.md). A client is in the cohort with probability
    min(1, c n_i), exactly, where c makes the sum of all probabilities the size of the cohort. Averages by samples give
    the clients of a cohort equal weights, so that sizes do not count twice. (A client that is drawn every time weighs
    c n_i times as much as the others.)

    Source: systematic sampling in random order, Hartley and Rao, Annals of Mathematical Statistics, 1962.

    >>> sampler, population = SampleWeightedSampler(), Population(samples=(10, 10, 20, 60))
    >>> sampler.chances(population, cohort=2).tolist()
    [0.25, 0.25, 0.5, 1.0]
    >>> sampler.weights(population, cohort=2)
    [1.0, 1.0, 1.0, 1.5]
    """

    def chances(self, population: Population, cohort: int) -> Tensor:
        """The probability of each client of being in a cohort, float64 ``[clients]``."""
        samples = torch.tensor(population.samples, dtype=torch.float64)
        return water_fill(samples / samples.max(), torch.ones(len(samples)), cohort / len(samples))

    def weights(self, population: Population, cohort: int) -> Sequence[float]:
        """See ``ClientSampler``: n_i over the chance of client i, in units of the smallest such ratio."""
        samples = torch.tensor(population.samples, dtype=torch.float64)
        ratios = (samples / self.chances(population, cohort)).nan_to_num(0.0)
        return (ratios / ratios[samples > 0].min()).tolist()

    def check(self, population: Population, cohort: int, rounds: int) -> None:
        """See ``ClientSampler``: enough clients must have samples, since the others are never drawn."""
        eligible = sum(samples > 0 for samples in population.samples)
        if cohort > eligible:
            raise ConfigError("cohort", f"{cohort} is more than the {eligible} clients that have samples")

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        draws = generator(seed, "cohort", round)
        order = torch.randperm(population.clients, generator=draws)
        # The chances lie end to end on a line, and the points u, u + 1, u + 2, ... each choose a client. No chance is
        # above 1, so no client is chosen twice.
        ends = self.chances(population, cohort)[order].cumsum(0)
        points = torch.rand((), generator=draws).double() + torch.arange(cohort)
        return order[torch.searchsorted(ends, points, right=True).clamp(max=len(order) - 1)].tolist()


class RoundRobinSampler(ClientSampler):
    """Takes the clients in the order of their ids; after the last client the first one follows.

    >>> RoundRobinSampler()(Population(samples=(10,) * 4), cohort=3, seed=1, round=1)
    [3, 0, 1]
    """

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        return [(round * cohort + place) % population.clients for place in range(cohort)]


class AvailabilitySampler(ClientSampler):
    """Draws uniformly among the clients that are online in the round; all of them if they are fewer than the cohort.

    Stage 1 takes offline clients too.

    Args:
        offline: for each tier, from the smallest, the probability that a client is offline in a round.

    Raises:
        ConfigError: a number is not in [0, 1], or all are 1.

    >>> population = Population(samples=(10,) * 6, tiers=(0, 0, 0, 1, 1, 1))
    >>> sorted(AvailabilitySampler([1.0, 0.0])(population, cohort=4, seed=1, round=0))
    [3, 4, 5]
    """

    def __init__(self, offline: Sequence[float]) -> None:
        if not all(0 <= chance <= 1 for chance in offline):
            raise ConfigError("offline", f"{as_yaml(list(offline))} has a number that is not in [0, 1]")
        if all(chance == 1 for chance in offline):
            raise ConfigError("offline", f"with {as_yaml(list(offline))} no client is ever online")
        self.offline = tuple(offline)

    def check(self, population: Population, cohort: int, rounds: int) -> None:
        """See ``ClientSampler``: clients must keep their tier, and each tier needs a probability."""
        if population.tiers is None:
            problem = f"{as_yaml(self.offline)} is given by tier, but in this budget clients change their tier"
            raise ConfigError("offline", problem, "use budget=by_share or budget=file")
        tiers = 1 + max(population.tiers)
        if tiers != len(self.offline):
            problem = f"{as_yaml(self.offline)} has {len(self.offline)} probabilities for {tiers} tiers"
            raise ConfigError("offline", problem, "give one for each tier")

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        assert population.tiers is not None
        draws = torch.rand(population.clients, generator=generator(seed, "availability", round), dtype=torch.float64)
        online = draws >= torch.tensor([self.offline[tier] for tier in population.tiers], dtype=torch.float64)
        order = torch.randperm(population.clients, generator=generator(seed, "cohort", round))
        return order[online[order]][:cohort].tolist()


class TraceSampler(ClientSampler):
    """Reads the cohorts, of any size, from a recorded trace.

    Args:
        path: a text file with one line per round: client ids, separated by blanks or commas. An empty line is a round
            without clients.

    Raises:
        ConfigError: the file cannot be read, or a line holds something else than distinct client ids.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt") as trace:
    ...     _ = trace.write("0, 2\\n1\\n")
    ...     trace.flush()
    ...     sampler = TraceSampler(trace.name)
    >>> sampler.cohorts
    [[0, 2], [1]]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("path", f"{self.path} cannot be read as a text file ({error})") from error
        self.cohorts = [self._cohort(number, line) for number, line in enumerate(lines, start=1)]

    def _cohort(self, number: int, line: str) -> list[int]:
        fields = line.replace(",", " ").split()
        clients = [int(field) for field in fields if field.isascii() and field.isdigit()]
        if len(set(clients)) < len(fields):
            raise ConfigError("path", f"line {number} of {self.path} is not a list of distinct client ids")
        return clients

    def check(self, population: Population, cohort: int, rounds: int) -> None:
        """See ``ClientSampler``: the trace needs a line for every round, with ids of clients that exist."""
        if rounds > len(self.cohorts):
            raise ConfigError("path", f"{self.path} has {len(self.cohorts)} lines for {rounds} rounds")
        for number, clients in enumerate(self.cohorts, start=1):
            if clients and max(clients) >= population.clients:
                problem = f"line {number} of {self.path} has client {max(clients)}"
                raise ConfigError("path", problem, f"clients are 0 to {population.clients - 1}")

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        return self.cohorts[round]
