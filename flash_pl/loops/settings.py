"""Settings of a run that are fixed before its first round: who trains when, learning rates, evaluation, failures."""

from collections.abc import Callable, Sized
from dataclasses import dataclass

from flash_pl.checks import check_choice, check_integers
from flash_pl.client import ClientContext
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.seeding import derive_seed
from flash_pl.server import ClientSampler, Population
from flash_pl.sparsity import SparsityBudget


@dataclass(frozen=True)
class RoundDecay:
    """Learning rates of round t (from 0) are the module's own times ratio^(t / horizon).

    Args:
        ratio: lr_end / lr, above 0. FLASH: 0.001 / 0.1; 1 keeps the rates constant.
        horizon: rounds until the ratio is reached, whatever the number of rounds of the run.
        delay: rounds by which the decay lags. The FLASH authors' code sets the rate after a round: 1.

    >>> decay = RoundDecay(ratio=0.01, horizon=1000)
    >>> round(decay.scale(0), 3), round(decay.scale(500), 3), round(decay.scale(1000), 3)
    (1.0, 0.1, 0.01)
    """

    ratio: float = 0.01
    horizon: int = 1000
    delay: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio < float("inf"):
            raise ConfigError("lr_end / lr", f"{as_yaml(self.ratio)} is not a finite number above 0")
        check_integers(lr_horizon=self.horizon)

    def scale(self, round: int) -> float:
        """The factor of all learning rates in ``round``."""
        return self.ratio ** (max(0, round - self.delay) / self.horizon)


@dataclass(frozen=True)
class EvaluationSchedule:
    """When the server's model is evaluated, and when every client on its own test samples.

    Args:
        eval_every: rounds between two evaluations of the server.
        eval_last: number of rounds at the end of the run that are all evaluated.
        eval_clients_every: rounds between two evaluations of every client; 0 for one at the end, None for never.
        finetune_epochs: local epochs after which every client is evaluated once more; 0 for no fine-tuning.

    >>> schedule = EvaluationSchedule(eval_every=10, eval_last=2)
    >>> [done for done in range(1, 26) if schedule.server_due(done, rounds=25)]
    [10, 20, 24, 25]
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
            problem = f"{self.finetune_epochs} epochs, but no client is evaluated (eval_clients_every is null)"
            raise ConfigError("finetune_epochs", problem, "set eval_clients_every, or finetune_epochs=0")

    def server_due(self, done: int, rounds: int) -> bool:
        """Whether to evaluate the server when ``done`` of ``rounds`` rounds are done."""
        return done % self.eval_every == 0 or done > rounds - self.eval_last

    def clients_due(self, done: int, rounds: int) -> bool:
        """Whether to evaluate every client when ``done`` of ``rounds`` rounds are done."""
        if self.eval_clients_every is None:
            return False
        return done == rounds or (self.eval_clients_every > 0 and done % self.eval_clients_every == 0)


@dataclass(frozen=True)
class FaultPolicy:
    """What a failing client does to the run: an exception, a loss or weights that are not finite, no samples.

    Args:
        on_client_error: what a failing client does to the run: raise ends it, skip goes on without the client.
        min_clients: with skip, repeat a round with a new cohort if clients failed and fewer than these remain.
        round_attempts: with skip, number of attempts at a round before the run ends.

    >>> FaultPolicy(on_client_error="skip", min_clients=5).round_attempts
    3
    """

    on_client_error: str = "raise"
    min_clients: int = 1
    round_attempts: int = 3

    def __post_init__(self) -> None:
        check_choice("raise", "skip", on_client_error=self.on_client_error)
        check_integers(min_clients=self.min_clients, round_attempts=self.round_attempts)


COHORT_HINT = "a cohort has at most all clients: give a smaller cohort, or more clients"


@dataclass(frozen=True)
class Participant:
    """A client that takes part in a round, with its tier of the budget and its number of training samples.

    ``weight`` is that of its update in averages and votes by samples (``ClientSampler.weights``).
    """

    client: int
    tier: int
    samples: int
    weight: float


@dataclass(frozen=True)
class Plan:
    """The facts of an experiment that hold for every scheduler, and the draws of cohorts.

    Args:
        rounds, cohort, local_epochs: R, clients per round K, local epochs E.
        seed: names every draw.
        budget: what each client can afford.
        population: number of samples and tier of every client.
        sampler: draws the cohorts.
        decay: of the learning rates over rounds.

    Raises:
        ConfigError: the cohort is larger than the population, or the sampler cannot serve it.
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
            clients = self.population.clients
            raise ConfigError("cohort", f"{self.cohort} is more than the number of clients, {clients}", COHORT_HINT)
        try:
            self.sampler.check(self.population, self.cohort, self.rounds)
        except ConfigError as error:
            raise (error if error.key == "cohort" else error.within("sampler")) from error

    def sample_cohort(self, round: int, attempt: int = 0) -> list[Participant]:
        """Draw the cohort of a round; a further ``attempt`` draws another one if the sampler is random."""
        seed = derive_seed(self.seed, "attempt", round, attempt) if attempt else self.seed
        return self._participants(self.sampler(self.population, self.cohort, seed, round), round)

    def everyone(self, round: int) -> list[Participant]:
        """All clients, with the tiers that they have in a round."""
        return self._participants(list(range(self.population.clients)), round)

    def _participants(self, clients: list[int], round: int) -> list[Participant]:
        tiers, samples = self.budget.tiers_of(clients, self.population.tiers, round), self.population.samples
        weights = self.sampler.weights(self.population, self.cohort)
        pairs = zip(clients, tiers, strict=True)
        return [Participant(client, tier, samples[client], weights[client]) for client, tier in pairs]

    def largest_client(self, batches: Callable[[int], Sized]) -> ClientContext:
        """The context in the first round of the client with the most samples; ``batches`` returns those of a client."""
        largest = max(self.everyone(0), key=lambda participant: participant.samples)
        return self.context(largest, len(batches(largest.client)), 0)

    def context(self, participant: Participant, batches: int, round: int) -> ClientContext:
        """The facts of a client's training in a round, given its number of batches per epoch."""
        return ClientContext(
            participant.client,
            round,
            self.local_epochs,
            batches,
            self.seed,
            lr_scale=self.decay.scale(round),
            tier=participant.tier,
        )
