"""Stage 2, the file to read: a round from the drawing of the cohort to the new server model."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.errors import ClientError, ConfigError, Interrupted
from flash_pl.loops.evaluation import RoundEvaluation, flops_of
from flash_pl.loops.federation import Federation, Trained
from flash_pl.loops.first_stage import FirstStageLoop, Progress
from flash_pl.loops.round_metrics import refuse_shared, round_metrics
from flash_pl.loops.settings import EvaluationSchedule, Participant
from flash_pl.loops.workers import Failure, Fault, check_mask, check_offered, server_half
from flash_pl.seeding import generator
from flash_pl.server.updates import Ballot, Report
from flash_pl.sparsity import SparseModel, vote_counts


class Loop(Stateful, ABC):
    """``run`` calls ``advance`` between its hooks until ``done``."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether to stop before the next advance."""

    @abstractmethod
    def advance(self) -> None:
        """One step of the loop."""

    def run(self) -> Any:
        """Run to the end and return what ``on_run_end`` returns."""
        self.reset()
        self.on_run_start()
        while not self.done:
            self.on_advance_start()
            self.advance()
            self.on_advance_end()
        return self.on_run_end()

    def reset(self) -> None:
        """Before a run, also a resumed one."""

    def on_run_start(self) -> None:
        """Before the first advance."""

    def on_advance_start(self) -> None:
        """Before every advance."""

    def on_advance_end(self) -> None:
        """After every advance."""

    def on_run_end(self) -> Any:
        """After the last advance."""


class RoundTraining:
    """Trains the cohort of a round and leaves this rank's part of the sum in the aggregator.

    Args:
        federation: the run's parts.
        on_client_end: called with the report of every client that this rank has trained and that was in time.
    """

    def __init__(self, federation: Federation, on_client_end: Callable[[Report], None]) -> None:
        self.parts, self.on_client_end = federation, on_client_end

    def run(self, masks: Sequence[Tensor], round: int) -> Trained:
        """Train the cohort of a round, and another one if too many of it fail.

        Args:
            masks: what the server offers each tier.

        Raises:
            ClientError: a client failed and is not to be skipped, or too few remained, time and again.
            Interrupted: a signal came.
        """
        faults, wasted = self.parts.cohorts.faults, list[list[Ballot]]()
        for attempt in range(faults.attempts):
            cohort = self.parts.plan.draw(round, attempt)
            trained, failed = self._attempt(cohort, masks, round)
            if not failed or len(trained.ballots) >= faults.min_clients:
                self.parts.ledger.link.remember([*trained.ballots, *trained.late])
                return replace(trained, wasted=wasted)
            wasted.append([*trained.ballots, *trained.late])
        raise ClientError(
            f"round {round + 1}: {len(trained.ballots)} of {len(cohort)} clients remained, min_clients is "
            f"{faults.min_clients}, after {faults.attempts} attempts; {failed[-1]}",
            failed[-1].trace,
        )

    def _attempt(
        self, cohort: Sequence[Participant], masks: Sequence[Tensor], round: int
    ) -> tuple[Trained, list[Failure]]:
        server, samples = self.parts.server, [member.samples for member in cohort]
        with server_half(self.parts.scheduler, "on_round_start", server, round):
            self.parts.scheduler.on_round_start(server, masks, round)
        self.parts.aggregator.reset(server.weights, server.layout.maskable, samples)
        done, signal = self.parts.cohorts.run(
            [member.client for member in cohort],
            samples,
            round + 1,
            server.fingerprint,
            lambda place: self._train(cohort[place], masks, round),
            self._keep,
        )
        if signal is not None:
            raise Interrupted(signal)
        ballots = [result.to(server.weights.device) for result in done.values() if isinstance(result, Ballot)]
        in_time, late = ([ballot for ballot in ballots if ballot.late is flag] for flag in (False, True))
        return Trained(in_time, late), [result for result in done.values() if isinstance(result, Failure)]

    def _train(self, member: Participant, masks: Sequence[Tensor], round: int) -> Report:
        """Train a client under the mask that its tier is offered, and add its weights to the sum if it is in time."""
        parts, link = self.parts, self.parts.ledger.link
        batches = parts.data.client_batches(member.client)
        if not batches.samples:
            raise Fault("it has no samples")
        context, held = parts.plan.context(member, len(batches), round), link.held(member.client)
        offered = parts.scheduler.client_mask(masks[member.tier], held, context)
        check_mask(offered, parts.client.layout.maskable)
        weights, mask, down = link.down(parts.server.weights, offered, held)
        parts.client.receive(weights, mask)
        report, up = link.up(parts.local.run(parts.client, parts.scheduler, batches, context), mask)
        report = parts.ledger.settle(report, down, up)
        if report.late:
            return replace(report, mask=mask, metrics={}, extra={})  # of the client's own the server learns nothing
        try:
            parts.aggregator.update(report)
        except OverflowError as error:
            where = parts.client.layout.slot_of_largest(report.weights)
            raise Fault(f"its weights cannot be summed ({where}: {error})") from error
        return report

    def _keep(self, report: Report) -> Ballot:
        if not report.late:
            self.on_client_end(report)
        return Ballot.of(report)


class FederatedLoop(Loop):
    """Trains the server's model over ``rounds`` rounds.

    Callbacks get ``on_run_start(loop)``, ``on_first_stage_client_end(loop, done, total)``, ``on_first_mask(loop)``,
    then ``on_client_end(loop, report)``, ``on_client_error(loop, failure)`` for a client that is left out,
    ``on_round_end(loop, row)`` with the round's line of metrics, ``on_run_end(loop)``; and if an error ends the run
    ``on_run_abort(loop, error)``. They are called on every rank, ``on_client_end`` on the one that trained the client.
    ``on_round_end`` may set ``should_stop``, on every rank.

    Attributes:
        server: weights, mask and union; the same on all ranks.
        masks: what the server offers its tiers of devices: nested, the last one is the server's own mask.
        plan: who trains when, for how long and at what rate.
        round: rounds done, so the index of the next one.
        metrics: the last round's row.
        evaluated: the names of those that its evaluation gave.
        should_stop: this round is the last one.
        votes: how many weights were held by 0, 1, ..., K of the last round's K clients.
        layer_mismatch: the last round's mismatches in each layer alone, by their names among the metrics.
        ledger: what the run has cost.
        failed: how many times a client has failed and was left out.
        pending: the round has changed the server and is not evaluated yet.
        whole: the server is as a round left it, so that it can be saved.
    """

    def __init__(self, federation: Federation, evaluate: EvaluationSchedule) -> None:
        self.parts = federation
        self.fabric, self.ranks, self.client = federation.fabric, federation.ranks, federation.client
        self.server, self.data, self.scheduler = federation.server, federation.data, federation.scheduler
        self.plan, self.ledger = federation.plan, federation.ledger
        self.training = RoundTraining(
            federation, lambda report: self.fabric.call("on_client_end", loop=self, report=report)
        )
        self.evaluation = RoundEvaluation(federation, evaluate)
        federation.cohorts.on_failure = self.on_failure
        self.round = self.failed = 0
        self.has_mask = False
        self.masks: list[Tensor] = []
        self.progress = Progress()  # of stage 1, while it is under way
        self.should_stop, self.pending, self.whole = False, False, True
        self.metrics: dict[str, float] = {}
        self.evaluated: tuple[str, ...] = ()
        self.votes: list[int] = []
        self.layer_mismatch: dict[str, list[float]] = {}

    @property
    def done(self) -> bool:
        return self.should_stop or self.round >= self.plan.rounds

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self.fabric.call("on_run_abort", loop=self, error=error)
            raise

    def on_failure(self, failure: Failure) -> None:
        """A client is left out."""
        self.failed += 1
        self.fabric.call("on_client_error", loop=self, failure=failure)

    def open(self) -> None:
        """Try the model on a batch of the data, before anything is written, and count its FLOPs.

        Raises:
            ModuleError: it cannot be evaluated.
            ConfigError: time is to be simulated and FLOPs cannot be counted.
        """
        self.ledger.open(flops_of(self.client, self.evaluation.evaluation, self.data))

    def on_run_start(self) -> None:
        if self.parts.round_average is None:  # one out of a checkpoint would be deployed and never change
            self.server.round_average = None
        self.fabric.call("on_run_start", loop=self)
        if not self.has_mask:
            self.find_first_mask()
            self.has_mask, self.progress = True, Progress()
            self.fabric.call("on_first_mask", loop=self)

    def find_first_mask(self) -> None:
        """Stage 1 if the method has one, then the first server mask and the initial weights adapted to it."""
        found = None
        if self.scheduler.first_stage is not None:
            found = FirstStageLoop(
                self.parts,
                self.scheduler.first_stage,
                self.progress,
                lambda done, total: self.fabric.call("on_first_stage_client_end", loop=self, done=done, total=total),
            ).run()
        with server_half(self.scheduler, "start", self.server, self.round):
            self.scheduler.start(self.server, found, generator(self.plan.seed, "mask"))
        if self.parts.server_optimizer is not None:
            self.parts.server_optimizer.start()
        self.nest()

    def nest(self) -> None:
        """What the server offers every tier of devices."""
        with server_half(self.scheduler, "tier_masks", self.server, self.round):
            self.masks = self.scheduler.tier_masks(self.server, self.plan.budget.ratios)
            check_offered(self.masks, self.server, len(self.plan.budget.tiers))

    def on_advance_start(self) -> None:
        self.started = time.perf_counter()

    def advance(self) -> None:
        if self.pending:  # the run was interrupted while it evaluated this round
            return
        server, previous, failed = self.server, self.server.mask, self.failed

        # 1. A cohort trains, each client under a mask that its device can afford.
        trained = self.training.run(self.masks, self.round)
        ballots = trained.ballots

        self.whole = False
        if ballots:  # a sampler may find nobody online, and a deadline may pass before the first report
            # 2. The sum over all ranks is everybody's; the aggregate replaces the server's weights. Unpruned it is the
            # union of the clients' models.
            self.ranks.sum_(self.parts.aggregator.units)
            mean, optimizer = self.parts.aggregator.compute(), self.parts.server_optimizer
            server.weights.copy_(mean if optimizer is None else optimizer.step(server, mean))
            server.union.copy_(server.weights)

            # 3. The method votes on the mask and prunes the server to it.
            with server_half(self.scheduler, "on_aggregate", server, self.round):
                self.scheduler.on_aggregate(server, ballots, self.round)
            self.nest()
        if self.parts.round_average is not None:  # a round without clients counts too
            self.parts.round_average.update(server, previous, self.round)

        self.votes = vote_counts([ballot.mask for ballot in ballots]).tolist()
        self.metrics, self.layer_mismatch = round_metrics(
            trained, server, previous, self.votes, self.masks, self.plan, self.ledger, self.round
        )
        if self.parts.cohorts.faults.on_error == "skip":
            self.metrics["failed"] = self.failed - failed
        self.metrics["seconds_train"] = time.perf_counter() - self.started
        self.pending = self.whole = True

    def on_advance_end(self) -> None:
        done, failed = self.round + 1, self.failed
        found = self.evaluation.run(self.masks, done)
        refuse_shared(found, self.metrics)
        self.metrics |= found
        self.evaluated = tuple(found)
        if "failed" in self.metrics:  # also those that could not be evaluated
            self.metrics["failed"] += self.failed - failed
        self.metrics["seconds"] = time.perf_counter() - self.started
        self.round, self.pending = done, False
        self.fabric.call("on_round_end", loop=self, row={"round": self.round} | self.metrics)

    def on_run_end(self) -> None:
        self.fabric.call("on_run_end", loop=self)

    def model(self) -> SparseModel:
        """The server's model after a round, masked to d, by the names of the module; for ``flash_pl.export``.

        Raises:
            ModuleError: the module has been federated again since: it holds another run's weights.
        """
        layout, module = self.server.layout, self.client.module
        self.client.check_tensors()
        self.client.reset()
        self.client.arena.copy_(self.server.masked())  # the next client receives its weights anyway
        values = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        tensors = {name: value.cpu().contiguous().clone() for name, value in values.items()}
        masks = {layer.name: layer.view(self.server.mask).cpu().contiguous().clone() for layer in layout.layers}
        density = int(self.server.mask.count_nonzero()) / layout.maskable
        facts = {"scheduler": type(self.scheduler).__name__, "density": f"{density:.4g}", "round": str(self.round)}
        return SparseModel(tensors, masks, facts)

    def identity(self) -> dict[str, Any]:
        """What makes this another experiment, as far as a trainer knows without a config."""
        optimizer = self.parts.server_optimizer
        return {
            "scheduler": type(self.scheduler).__name__,
            "server_optimizer": type(optimizer).__name__ if optimizer is not None else None,
            "seed": self.plan.seed,
            "density": self.plan.budget.density,
            "clients": self.data.clients,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "identity": self.identity(),
            "round": self.round,
            "failed": self.failed,
            "metrics": self.metrics,
            "votes": self.votes,
            "layer_mismatch": self.layer_mismatch,
            "has_mask": self.has_mask,
            "pending": self.pending,
            "stopped": bool(self.should_stop),
            "tier_masks": [mask.cpu() for mask in self.masks[:-1]],  # for readers; this loop makes them anew
            "first_stage": self.progress.state_dict(),
        } | {name: part.state_dict() for name, part in self.parts.stateful().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ConfigError: it belongs to another experiment.
        """
        for key, value in self.identity().items():
            if state["identity"][key] != value:
                raise ConfigError(key, value, f"{state['identity'][key]!r}, as in the checkpoint")
        if state["round"] > self.plan.rounds:
            raise ConfigError("rounds", self.plan.rounds, f"at least the {state['round']} that the checkpoint has done")
        self.round, self.failed = state["round"], state["failed"]
        self.metrics, self.votes = dict(state["metrics"]), list(state["votes"])
        self.layer_mismatch = dict(state["layer_mismatch"])
        self.has_mask = state["has_mask"]
        self.progress.load_state_dict(state["first_stage"])
        self.pending, self.should_stop = state["pending"], state["stopped"]
        for name, part in self.parts.stateful().items():
            part.load_state_dict(state[name])
        self.nest()
