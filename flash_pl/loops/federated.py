"""Stage 2, the file to read: a round from the drawing of the cohort to the new server model."""

import time
from typing import Any

from lightning.fabric import Fabric
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.data import FederatedData
from flash_pl.errors import ClientError, ConfigError, Interrupted
from flash_pl.loops.base import Loop
from flash_pl.loops.clients import ClientEvaluationLoop
from flash_pl.loops.cohort import CohortLoop
from flash_pl.loops.consensus import consensus
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.faults import Failure, Fault
from flash_pl.loops.local import LocalLoop
from flash_pl.loops.means import WeightedMeans
from flash_pl.loops.schedule import EvaluationSchedule, RoundDecay
from flash_pl.loops.sensitivity import SensitivityStage
from flash_pl.loops.tiers import evaluate_tiers
from flash_pl.ranks import Ranks
from flash_pl.report import Ballot, Report
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive, generator
from flash_pl.server import ClientSampler, FedAvg, Population, ServerState
from flash_pl.sparsity import SparsityBudget, nested_masks


class FederatedLoop(Loop):
    """Trains the server's model over ``rounds`` rounds.

    Callbacks get ``on_run_start(loop)``, ``on_sensitivity_client_end(loop, done, total)``, ``on_first_mask(loop)``,
    then ``on_client_end(loop, report)``, ``on_client_error(loop, failure)`` for a client that is left out,
    ``on_round_end(loop, row)`` with the round's line of metrics, ``on_run_end(loop)``; and if an error ends the run
    ``on_run_abort(loop, error)``. They are called on every rank, ``on_client_end`` on the one that trained the client.

    Attributes:
        server: weights, mask and union; the same on all ranks.
        masks: what the server offers its tiers of devices: nested, the last one is the server's own mask.
        population: what the sampler knows of the clients.
        round: rounds done, so the index of the next one.
        metrics: the last round's row.
        failed: how many times a client has failed and was left out.
    """

    def __init__(
        self,
        fabric: Fabric,
        ranks: Ranks,
        client: ClientState,
        server: ServerState,
        data: FederatedData,
        scheduler: SparseScheduler,
        *,
        rounds: int,
        cohort: int,
        local_epochs: int,
        seed: int,
        budget: SparsityBudget,
        population: Population,
        aggregator: FedAvg,
        sampler: ClientSampler,
        decay: RoundDecay,
        evaluate: EvaluationSchedule,
        local: LocalLoop,
        trainer: CohortLoop,
    ) -> None:
        self.fabric, self.ranks, self.client, self.server = fabric, ranks, client, server
        self.data, self.scheduler = data, scheduler
        self.rounds, self.cohort, self.local_epochs, self.seed = rounds, cohort, local_epochs, seed
        self.budget, self.population, self.aggregator = budget, population, aggregator
        self.sampler, self.decay = sampler, decay
        self.local, self.trainer = local, trainer
        self.evaluate, self.evaluation = evaluate, EvaluationLoop(fabric, seed)
        self.clients = ClientEvaluationLoop(self.evaluation, local, ranks, evaluate.finetune_epochs)
        self.round = self.failed = 0
        self.has_mask, self.found = False, {}  # type: tuple[bool, dict[int, Tensor]]  # stage 1's
        self.should_stop = False
        self.metrics: dict[str, float] = {}

    @property
    def done(self) -> bool:
        return self.should_stop or self.round >= self.rounds

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self.fabric.call("on_run_abort", loop=self, error=error)
            raise

    def on_run_start(self) -> None:
        self.fabric.call("on_run_start", loop=self)
        if not self.has_mask:
            self.find_first_mask()
            self.has_mask, self.found = True, {}
            self.fabric.call("on_first_mask", loop=self)

    def find_first_mask(self) -> None:
        """Stage 1 if the method has one, then the first server mask and the initial weights adapted to it."""
        found = None
        if self.scheduler.sensitivity is not None:
            found = SensitivityStage(
                self.scheduler.sensitivity,
                self.scheduler,
                self.local,
                self.trainer,
                self.client,
                self.server,
                self.data,
                self.budget.density,
                self.seed,
                self.found,
                lambda done, total: self.fabric.call("on_sensitivity_client_end", loop=self, done=done, total=total),
            ).run()
        mask = self.scheduler.initial_mask(self.server.layout, self.budget.density, found, generator(self.seed, "mask"))
        self.server.mask = mask.to(self.server.weights.device)
        self.scheduler.first_mask.initialise(self.server.layout, self.server.weights, self.server.mask)
        self.server.prune_()  # a masked average keeps what nobody holds, and that must be nothing
        self.nest()

    def nest(self) -> None:
        """Prune the server's mask to every tier of devices."""
        server = self.server
        self.masks = nested_masks(server.layout, server.mask, server.weights, self.budget.ratios)

    def on_advance_start(self) -> None:
        self.started = time.perf_counter()

    def advance(self) -> None:
        server, previous = self.server, self.server.mask

        # 1. A cohort trains, each client under a mask that its device can afford.
        ballots, failures = self.train_cohort()

        if ballots:  # a sampler may find nobody online
            # 2. The sum over all ranks is everybody's; the aggregate replaces the server's weights. Unpruned it is the
            # union of the clients' models.
            self.ranks.sum_(self.aggregator.units)
            server.weights.copy_(self.aggregator.compute())
            server.union.copy_(server.weights)

            # 3. The method votes on the mask and prunes the server to it.
            self.scheduler.on_aggregate(server, ballots, self.round)
            self.nest()

        logged = WeightedMeans()
        for ballot in ballots:
            logged.update(ballot.metrics, ballot.samples)
        self.metrics = logged.compute() | consensus(server, previous, ballots, self.budget, self.masks)
        self.metrics |= {"participants": len(ballots), "lr_scale": self.decay.scale(self.round)}
        if self.trainer.faults.on_error == "skip":
            self.metrics["failed"] = failures

    def train_cohort(self) -> tuple[list[Ballot], int]:
        """The ballots of a cohort that has trained, in its order, and how many clients have failed.

        Raises:
            ClientError: a client failed and is not to be skipped, or too few remained, time and again.
            Interrupted: a signal came.
        """
        policy, failures = self.trainer.faults, 0
        for attempt in range(policy.attempts):
            seed = derive(self.seed, "attempt", self.round, attempt) if attempt else self.seed
            cohort = self.sampler(self.population, self.cohort, seed, self.round)
            tiers = self.budget.tiers_of(cohort, self.population.tiers, self.round)
            samples = [self.population.samples[client] for client in cohort]
            self.scheduler.on_round_start(self.server, self.masks, self.round)
            self.aggregator.reset(self.server.weights, self.server.layout.maskable, samples)
            done, signal = self.trainer.run(
                cohort,
                samples,
                self.round + 1,
                self.server.fingerprint() if self.ranks.size > 1 else 0,
                lambda place, cohort=cohort, tiers=tiers: self.train(cohort[place], tiers[place]),  # type: ignore[misc]
                self.keep,
            )
            if signal is not None:
                raise Interrupted(signal)
            ballots = [result for result in done.values() if isinstance(result, Ballot)]
            failed = [result for result in done.values() if isinstance(result, Failure)]
            for failure in failed:
                self.fabric.call("on_client_error", loop=self, failure=failure)
            failures += len(failed)
            if not failed or len(ballots) >= policy.min_clients:
                self.failed += failures
                return [ballot.to(self.server.weights.device) for ballot in ballots], failures
        raise ClientError(
            f"round {self.round + 1}: {len(ballots)} of {len(cohort)} clients remained, min_clients is "
            f"{policy.min_clients}, after {policy.attempts} attempts; {failed[-1]}",
            failed[-1].trace,
        )

    def train(self, client: int, tier: int) -> Report:
        """Train a client under the mask that its tier is offered, and add its weights to the sum."""
        batches = self.data.client_batches(client)
        if not batches.samples:
            raise Fault("it has no samples")
        context = self.context(client, len(batches), tier)
        self.client.receive(self.server.weights, self.scheduler.client_mask(self.masks[tier], context))
        report = self.local.run(self.client, self.scheduler, batches, context)
        try:
            self.aggregator.update(report)
        except OverflowError as error:
            where = self.client.layout.slot_of_largest(report.weights)
            raise Fault(f"its weights cannot be summed ({where}: {error})") from error
        return report

    def keep(self, report: Report) -> Ballot:
        """What stays of a report."""
        self.fabric.call("on_client_end", loop=self, report=report)
        return Ballot.of(report)

    def context(self, client: int, batches: int, tier: int = 0) -> ClientContext:
        """The facts of a client's training in this round."""
        scale = self.decay.scale(self.round)
        return ClientContext(client, self.round, self.local_epochs, batches, self.seed, lr_scale=scale, tier=tier)

    def on_advance_end(self) -> None:
        self.round += 1
        trained = time.perf_counter()
        found = self.validate() if self.evaluate.due(self.round, self.rounds) else {}
        if self.evaluate.clients_due(self.round, self.rounds):
            self.tiers = self.budget.tiers_of(range(self.data.clients), self.population.tiers, self.round)
            found |= self.clients.run(self.client, self.offer, self.data)
        if found:
            if shared := self.metrics.keys() & found.keys():
                raise ConfigError("log", sorted(shared), "names that training, validation and the round do not share")
            self.metrics |= found
        self.metrics |= {"seconds_train": trained - self.started, "seconds": time.perf_counter() - self.started}
        self.fabric.call("on_round_end", loop=self, row={"round": self.round} | self.metrics)

    def on_run_end(self) -> None:
        self.fabric.call("on_run_end", loop=self)

    def validate(self) -> dict[str, float]:
        """Metrics of the server's models, see :func:`evaluate_tiers`."""
        batches, tiers = self.data.val_dataloader(), self.budget.tiers
        return evaluate_tiers(
            self.evaluation, self.ranks, self.client, self.server, tiers, self.masks, batches, self.round
        )

    def offer(self, client: int) -> tuple[Tensor, Tensor, ClientContext]:
        """What a client would start from now: the server's arena, a mask, and the facts of a fine-tuning."""
        tier, scale = self.tiers[client], self.decay.scale(self.round)
        batches, epochs = len(self.data.client_batches(client)), self.evaluate.finetune_epochs
        context = ClientContext(client, self.round, epochs, batches, self.seed, "finetune", scale, tier)
        return self.server.weights, self.scheduler.client_mask(self.masks[tier], context), context

    def identity(self) -> dict[str, Any]:
        """What makes this another experiment, as far as a trainer knows without a config."""
        return {
            "scheduler": type(self.scheduler).__name__,
            "seed": self.seed,
            "density": self.budget.density,
            "clients": self.data.clients,
        }

    def parts(self) -> dict[str, Any]:
        """What has a state of its own."""
        return {
            "server": self.server,
            "scheduler": self.scheduler,
            "voter": self.scheduler.voter,
            "sampler": self.sampler,
            "aggregator": self.aggregator,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "identity": self.identity(),
            "round": self.round,
            "failed": self.failed,
            "metrics": self.metrics,
            "has_mask": self.has_mask,
            "found": dict(self.found),
        } | {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ConfigError: it belongs to another experiment.
        """
        for key, value in self.identity().items():
            if state["identity"][key] != value:
                raise ConfigError(key, value, f"{state['identity'][key]!r}, as in the checkpoint")
        if state["round"] > self.rounds:
            raise ConfigError("rounds", self.rounds, f"at least the {state['round']} that the checkpoint has done")
        self.round, self.failed, self.metrics = state["round"], state["failed"], dict(state["metrics"])
        self.has_mask, self.found = state["has_mask"], dict(state["found"])
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.nest()
