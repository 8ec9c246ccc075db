"""Who trains when, for how long and at what rate: all that is fixed before the first round."""

from dataclasses import dataclass

from flash_pl.client import ClientContext
from flash_pl.errors import ConfigError
from flash_pl.loops.schedule import RoundDecay
from flash_pl.seeding import derive
from flash_pl.server import ClientSampler, Population
from flash_pl.sparsity import SparsityBudget


@dataclass(frozen=True)
class Member:
    """A client of a cohort, with its tier of the budget and its number of samples."""

    client: int
    tier: int
    samples: int


@dataclass(frozen=True)
class Plan:
    """The facts of an experiment, whatever the method.

    Args:
        rounds, cohort, local_epochs: R, clients per round K, local epochs E.
        seed: names every draw.
        budget: what each client can afford.
        population: what is known of the clients.
        sampler: draws the cohorts.
        decay: of the learning rates over rounds.

    Raises:
        ConfigError: a cohort larger than the population, a sampler that cannot serve it.
    """

    rounds: int
    cohort: int
    local_epochs: int
    seed: int
    budget: SparsityBudget
    population: Population
    sampler: ClientSampler
    decay: RoundDecay

    def __post_init__(self) -> None:
        if self.cohort > self.population.clients:
            raise ConfigError("cohort", self.cohort, f"at most the number of clients, {self.population.clients}")
        try:
            self.sampler.check(self.population, self.cohort, self.rounds)
        except ConfigError as error:
            raise (error if error.key == "cohort" else error.within("sampler")) from error

    def draw(self, round: int, attempt: int = 0) -> list[Member]:
        """The cohort of a round; of a further ``attempt`` another one, as far as the sampler draws."""
        seed = derive(self.seed, "attempt", round, attempt) if attempt else self.seed
        clients = self.sampler(self.population, self.cohort, seed, round)
        tiers = self.budget.tiers_of(clients, self.population.tiers, round)
        samples = self.population.samples
        return [Member(client, tier, samples[client]) for client, tier in zip(clients, tiers, strict=True)]

    def everyone(self, round: int) -> list[Member]:
        """All clients, with their tiers in a round."""
        clients = range(self.population.clients)
        tiers = self.budget.tiers_of(clients, self.population.tiers, round)
        return [Member(*facts) for facts in zip(clients, tiers, self.population.samples, strict=True)]

    def context(self, member: Member, batches: int, round: int) -> ClientContext:
        """The facts of a client's training in a round."""
        scale = self.decay.scale(round)
        return ClientContext(
            member.client, round, self.local_epochs, batches, self.seed, lr_scale=scale, tier=member.tier
        )
