"""What depends on the number of the round: the learning rate and whether to evaluate."""

from dataclasses import dataclass

from flash_pl.checks import check_integers
from flash_pl.client import ClientContext
from flash_pl.errors import ConfigError
from flash_pl.seeding import derive_seed
from flash_pl.server import ClientSampler, Population
from flash_pl.sparsity import SparsityBudget


@dataclass(frozen=True)
class RoundDecay:
    """Learning rates of round t (from 0) are the module's own times ratio^(t / horizon).

    Args:
        ratio: lr_end / lr. FLASH: 0.001 / 0.1; 1 keeps the rates constant.
        horizon: rounds until the ratio is reached, whatever the number of rounds of the run.
        delay: rounds by which the decay lags. The authors' code sets the rate after a round: 1.
    """

    ratio: float = 0.01
    horizon: int = 1000
    delay: int = 0

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise ConfigError("lr_end / lr", self.ratio, "a number above 0")
        check_integers(lr_horizon=self.horizon)

    def scale(self, round: int) -> float:
        """The factor in ``round``."""
        return self.ratio ** (max(0, round - self.delay) / self.horizon)


@dataclass(frozen=True)
class EvaluationSchedule:
    """When the server's model is evaluated, and when every client on its own test samples.

    Args:
        eval_every: rounds between two evaluations of the server's model.
        eval_last: rounds at the end of the run after each of which the server's model is evaluated.
        eval_clients_every: rounds between two evaluations on every client's own test samples; 0 evaluates the clients
            only at the end of the run, None never.
        finetune_epochs: epochs that a client trains on its own samples before it is evaluated a second time; 0 skips
            this second evaluation.
    """

    eval_every: int = 1
    eval_last: int = 1
    eval_clients_every: int | None = None
    finetune_epochs: int = 0

    def __post_init__(self) -> None:
        check_integers(eval_every=self.eval_every, eval_last=self.eval_last)
        check_integers(0, optional=True, eval_clients_every=self.eval_clients_every)
        check_integers(0, finetune_epochs=self.finetune_epochs)
        if self.finetune_epochs and self.eval_clients_every is None:
            raise ConfigError("finetune_epochs", f"{self.finetune_epochs} needs eval_clients_every, which is null")

    def due(self, done: int, rounds: int) -> bool:
        """Whether to evaluate the server when ``done`` of ``rounds`` rounds are done."""
        return done % self.eval_every == 0 or done > rounds - self.eval_last

    def clients_due(self, done: int, rounds: int) -> bool:
        """Whether to evaluate the clients when ``done`` of ``rounds`` rounds are done."""
        if self.eval_clients_every is None:
            return False
        return done == rounds or (self.eval_clients_every > 0 and done % self.eval_clients_every == 0)


@dataclass(frozen=True)
class Participant:
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

    def draw(self, round: int, attempt: int = 0) -> list[Participant]:
        """The cohort of a round; of a further ``attempt`` another one, as far as the sampler draws."""
        seed = derive_seed(self.seed, "attempt", round, attempt) if attempt else self.seed
        clients = self.sampler(self.population, self.cohort, seed, round)
        tiers = self.budget.tiers_of(clients, self.population.tiers, round)
        samples = self.population.samples
        return [Participant(client, tier, samples[client]) for client, tier in zip(clients, tiers, strict=True)]

    def everyone(self, round: int) -> list[Participant]:
        """All clients, with their tiers in a round."""
        clients = range(self.population.clients)
        tiers = self.budget.tiers_of(clients, self.population.tiers, round)
        return [Participant(*facts) for facts in zip(clients, tiers, self.population.samples, strict=True)]

    def context(self, member: Participant, batches: int, round: int) -> ClientContext:
        """The facts of a client's training in a round."""
        scale = self.decay.scale(round)
        return ClientContext(
            member.client, round, self.local_epochs, batches, self.seed, lr_scale=scale, tier=member.tier
        )
