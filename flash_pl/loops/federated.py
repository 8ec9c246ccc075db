"""Stage 2, the file to read first: a round from the sampling of its cohort to the row of its metrics."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lightning.fabric import Fabric
from lightning.fabric.utilities import rank_zero_warn
from torch import Tensor

from flash_pl.client import ClientState
from flash_pl.costs import CostLedger
from flash_pl.data import FederatedData
from flash_pl.errors import ClientError, ConfigError, MessageError
from flash_pl.loops.evaluation import RoundEvaluator
from flash_pl.loops.failures import (
    Failure,
    Fault,
    check_frozen,
    check_mask,
    check_tier_masks,
    check_weights,
    diverged,
    explained,
    server_hook,
)
from flash_pl.loops.first_stage import FirstStageLoop, Progress
from flash_pl.loops.first_step import FirstStep
from flash_pl.loops.hooks import call_all_hooks, call_hooks
from flash_pl.loops.local import LocalLoop
from flash_pl.loops.round_metrics import check_names, logged_metrics, mask_agreement
from flash_pl.loops.settings import Participant, Plan
from flash_pl.loops.workers import Workers
from flash_pl.ranks import Ranks
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import generator
from flash_pl.server import ClientUpdate, FedAvg, RoundAverage, ServerOptimizer, ServerState
from flash_pl.sparsity import unchanged, vote_counts


@dataclass(frozen=True)
class CohortResult:
    """The updates of a cohort in its order: in time, late (they are not aggregated), and the clients that failed."""

    in_time: list[ClientUpdate]
    late: list[ClientUpdate]
    failures: list[Failure]

    @property
    def updates(self) -> list[ClientUpdate]:
        """All updates; they have had costs, in time or late."""
        return [*self.in_time, *self.late]


class FederatedLoop:
    """Trains the server's model over ``plan.rounds`` rounds and calls the hooks of ``flash_pl.callbacks.Callback``.

    Args:
        fabric: devices, precision, loggers and callbacks.
        ranks: the processes of the run.
        workers: spreads the clients over them.
        client: the module that every client trains in turn.
        server: weights, mask and union; equal on all ranks.
        data: of all clients.
        scheduler: the sparse scheduler.
        plan: who trains when, for how long and at what rate.
        aggregator: sums up the clients' weights.
        local: trains one client.
        evaluator: evaluates the server and the clients after a round.
        ledger: counts the costs.
        server_optimizer: moves the server on from the clients' mean; None takes the mean.
        round_average: averages the server's models over rounds; None deploys the last round's model.
        density_of: what the target density is a share of, weights or flops.

    Attributes:
        round: rounds done, which is the index of the next one.
        tier_masks: masks that the server offers to the tiers, nested; the last one is the server's own mask.
        metrics: the row of the last round.
        evaluated: names of those metrics that its evaluation gave.
        votes: how many weights were in 0, 1, ..., K of the masks of the last round's K clients.
        layer_mismatch: the last round's mismatches of each layer alone, by their names among the metrics.
        failed: how many times a client has failed and was skipped.
        should_stop: end the run after this round; a callback may set it in ``on_round_end``, on every rank.
        stop_reason: why a callback has set ``should_stop``, in words; empty if it says nothing.
        has_mask: stage 1 is over and the first mask is made.
        evaluation_pending: the round has changed the server and is not evaluated yet.
        consistent: the server is as a round left it, so a checkpoint may hold it.
        restored_in_part: a checkpoint could not be restored in full, so the loop does not run.
    """

    def __init__(
        self,
        *,
        fabric: Fabric,
        ranks: Ranks,
        workers: Workers,
        client: ClientState,
        server: ServerState,
        data: FederatedData,
        scheduler: SparseScheduler,
        plan: Plan,
        aggregator: FedAvg,
        local: LocalLoop,
        evaluator: RoundEvaluator,
        ledger: CostLedger,
        server_optimizer: ServerOptimizer | None = None,
        round_average: RoundAverage | None = None,
        density_of: str = "weights",
    ) -> None:
        self.fabric, self.ranks, self.workers = fabric, ranks, workers
        self.client, self.server, self.data, self.scheduler, self.plan = client, server, data, scheduler, plan
        self.aggregator, self.server_optimizer, self.round_average = aggregator, server_optimizer, round_average
        self.local, self.evaluator, self.ledger, self.density_of = local, evaluator, ledger, density_of
        workers.on_failure = self.skip_client

        self.round = self.failed = 0
        self.tier_masks: list[Tensor] = []
        self.metrics: dict[str, float] = {}
        self.evaluated: tuple[str, ...] = ()
        self.votes: list[int] = []
        self.layer_mismatch: dict[str, list[float]] = {}
        self.should_stop, self.has_mask, self.evaluation_pending, self.consistent = False, False, False, True
        self.stop_reason, self.first_stage_progress, self.restored_in_part = "", Progress(), False

    @property
    def done(self) -> bool:
        """Whether the last round is over."""
        return self.should_stop or self.round >= self.plan.rounds

    def run(self) -> None:
        """Make the first mask, unless a checkpoint brought one, and train all rounds.

        Raises:
            RunError: the run cannot go on; or another of the errors in ``flash_pl.errors``.
            ConfigError: a checkpoint was restored in part.
        """
        if self.restored_in_part:
            raise ConfigError("ckpt_path", "only a part of the checkpoint could be restored", "make a new loop")
        self.stop_reason = ""
        try:
            if self.round_average is None:  # an average out of a checkpoint would never change again
                self.server.round_average = None
            call_hooks(self.fabric, "on_run_start", loop=self)
            self.count_training()
            if self.has_mask:
                self.workers.compare("after the checkpoint was read")
            else:
                self.make_first_mask()
                self.workers.compare("after the first mask")
                self.has_mask, self.first_stage_progress = True, Progress()
                call_hooks(self.fabric, "on_first_mask", loop=self)
            while not self.done:
                self.train_round()
            self.end_run()
        except BaseException as error:
            reason = explained(error, self.round)
            for other in call_all_hooks(self.fabric, "on_run_abort", loop=self, error=reason):
                rank_zero_warn(f"the run has ended by an error, and then {other}")
            if reason is error:
                raise
            raise reason from error

    def end_run(self) -> None:
        """Tell all callbacks that the last round is over; an error of one of them keeps nothing from the others.

        Raises:
            CallbackError: the first of their errors.
        """
        errors = call_all_hooks(self.fabric, "on_run_end", loop=self)
        for other in errors[1:]:
            rank_zero_warn(str(other))
        if errors:
            raise errors[0]

    def first_step(self) -> FirstStep:
        """Takes the first step of a client, to see how the module trains."""
        return FirstStep(self.client, self.data, self.plan, self.fabric, self.local.clipping)

    def count_training(self) -> None:
        """Count the FLOPs of ``training_step``, if those of the model can be counted at all."""
        if self.ledger.flops is not None:
            counted = self.first_step().flops()
            self.ledger.training = self.ranks.broadcast(lambda: counted) or self.ledger.flops

    def make_first_mask(self) -> None:
        """Stage 1 if the scheduler has one, then the first server mask and the initial weights adapted to it."""
        measured = None
        if self.server.density < 1 and self.scheduler.first_mask.asks_for_invariance:
            invariant = self.first_step().scale_invariant()
            self.server.layout.scale_invariant = self.ranks.broadcast(lambda: invariant)  # rounding may differ
        if self.scheduler.first_stage is not None:
            stage = FirstStageLoop(
                self.scheduler.first_stage,
                scheduler=self.scheduler,
                client=self.client,
                server=self.server,
                data=self.data,
                workers=self.workers,
                local=self.local,
                ledger=self.ledger,
                seed=self.plan.seed,
                progress=self.first_stage_progress,
                on_client_end=lambda done, total: call_hooks(
                    self.fabric, "on_first_stage_client_end", loop=self, done=done, total=total
                ),
            )
            with self.forgetting_failures():
                measured = stage.run()
        self.consistent = False
        with server_hook(self.scheduler, "start", self.server, self.round):
            self.scheduler.start(self.server, measured, generator(self.plan.seed, "mask"))
        if self.server_optimizer is not None:
            self.server_optimizer.start()
        self.update_tier_masks()
        self.consistent = True

    def train_round(self) -> None:
        """One round, in the order in which it happens."""
        server, scheduler, round, started = self.server, self.scheduler, self.round, time.perf_counter()
        if not self.evaluation_pending:  # otherwise the run was interrupted while it evaluated this round
            previous_mask, previous_support, failed_before = server.mask, server.support, self.failed

            # 1. A cohort trains, each client under the mask of its tier. If too many clients fail, another one does.
            attempts: list[CohortResult] = []
            with self.forgetting_failures():
                while not attempts or self.too_few(attempts):
                    cohort = self.plan.sample_cohort(round, attempt=len(attempts))
                    attempts.append(self.train_cohort(cohort))
            updates = attempts[-1].in_time
            self.ledger.link.remember(attempts[-1].updates)

            self.consistent = False
            if updates:  # a sampler may find no client online, and all clients may miss the deadline
                # 2. The sum of all processes replaces the server's weights. Unpruned they are the union of the clients'
                # models.
                self.ranks.sum_(self.aggregator.accumulator)
                new, frozen = self.next_weights(), server.layout.frozen
                server.weights[:frozen].copy_(new[:frozen])  # a mean could round frozen parameters
                server.union.copy_(server.weights)

                # 3. The scheduler picks the next mask (JMWST by a vote, SPDST keeps it) and prunes the server to it.
                with server_hook(scheduler, "on_aggregate", server, round):
                    scheduler.on_aggregate(server, updates, round)
                    check_weights(server.weights, server.layout.size, server.union.dtype)
                self.update_tier_masks()
            if self.round_average is not None:  # a round without clients counts too
                self.round_average.update(server, previous_support, round)

            # 4. The row of metrics, without its evaluation.
            self.votes = vote_counts([update.mask for update in updates]).tolist()
            agreement, self.layer_mismatch = mask_agreement(
                server, previous_mask, updates, self.votes, self.plan.budget, self.tier_masks
            )
            costs = self.ledger.add_round(
                [attempt.updates for attempt in attempts], server.layout.densities(server.mask)
            )
            row = agreement | costs | {"participants": len(updates), "lr_scale": self.plan.decay.scale(round)}
            logged = logged_metrics(updates, self.evaluator.loop.names)
            check_names(logged, row)
            self.metrics = logged | row
            if self.workers.faults.on_client_error == "skip":
                self.metrics["failed"] = self.failed - failed_before
                sent = [update for attempt in attempts for update in attempt.updates]  # the bytes are of all attempts
                self.metrics |= {"messages_up": sum(not update.late for update in sent), "messages_down": len(sent)}
            self.workers.compare(f"after round {round + 1}")
            self.metrics["seconds_train"] = time.perf_counter() - started
            self.evaluation_pending = self.consistent = True

        # 5. The new model is evaluated, and the row is complete.
        failed_before = self.failed
        with self.forgetting_failures():
            evaluation = self.evaluator.run(self.tier_masks, done=round + 1)
        check_names(evaluation, self.metrics)
        self.metrics |= evaluation
        self.evaluated = tuple(evaluation)
        if "failed" in self.metrics:  # clients may fail in an evaluation too
            self.metrics["failed"] += self.failed - failed_before
        self.metrics["seconds"] = time.perf_counter() - started
        self.round, self.evaluation_pending = round + 1, False
        call_hooks(self.fabric, "on_round_end", loop=self, row={"round": self.round} | self.metrics)

    def next_weights(self) -> Tensor:
        """The clients' average, or what the server's optimizer makes of it, ``[layout.size]``.

        Raises:
            SchedulerError: the weights have another shape, or are not finite.
        """
        server, optimizer = self.server, self.server_optimizer
        with server_hook(self.aggregator, "mean", server, self.round):
            new = self.aggregator.mean()
            check_weights(new, server.layout.size)
        if optimizer is not None:
            with server_hook(optimizer, "step", server, self.round):
                new = optimizer.step(server, new)
                check_weights(new, server.layout.size)
        return new

    def train_cohort(self, cohort: Sequence[Participant]) -> CohortResult:
        """Train the clients of a cohort; this process's part of their sum is then in the aggregator.

        Raises:
            ClientError: a client failed and is not skipped.
            Interrupted: a signal asked to stop.
        """
        server = self.server
        with server_hook(self.scheduler, "on_round_start", server, self.round):
            self.scheduler.on_round_start(server, self.tier_masks, self.round)
        self.aggregator.reset(server.weights, server.layout.maskable, [client.weight for client in cohort])
        results = self.workers.map(self.train_client, cohort, self.round + 1, on_result=self.report_update)
        updates = [result.to(server.weights.device) for result in results if isinstance(result, ClientUpdate)]
        return CohortResult(
            in_time=[update for update in updates if not update.late],
            late=[update for update in updates if update.late],
            failures=[result for result in results if isinstance(result, Failure)],
        )

    def train_client(self, participant: Participant) -> ClientUpdate:
        """Train a client under the mask of its tier, and add its weights to the sum if its update is in time.

        Raises:
            Fault: the client has no samples, its mask is invalid, its weights or loss are not finite, its update cannot
                be sent, or a frozen parameter has changed.
            ServerError: the server's model cannot be sent.
        """
        link, scheduler, client = self.ledger.link, self.scheduler, self.client
        batches = self.data.client_batches(participant.client)
        if not batches.samples:
            raise Fault("it has no samples")
        context = self.plan.context(participant, len(batches), self.round)
        previous_mask = link.previous_mask(participant.client, self.server.mask.device)
        tier_mask = self.tier_masks[participant.tier]
        with unchanged(tier_mask, f"{type(scheduler).__name__}.client_mask", "make a new tensor"):
            client_mask = scheduler.client_mask(tier_mask, previous_mask, context)
        check_mask(client_mask, client.layout.maskable)
        weights, mask, down = link.down(self.server.weights, client_mask, previous_mask)
        client.receive(weights, mask)
        with unchanged(mask, type(scheduler).__name__, "use client.move_mask_"):
            update = self.local.run(client, scheduler, batches, context)
        check_frozen(client.layout, before=weights, after=client.arena)
        try:
            update, weights, up = link.up(replace(update, weight=participant.weight), client.arena, mask)
        except MessageError as error:
            if not client.arena.isfinite().all():
                raise diverged(f"its update cannot be sent, {error}", client) from error
            raise Fault(f"its update cannot be sent ({error})") from error
        update = self.ledger.with_costs(update, down, up)
        if update.late:
            return replace(update, mask=mask, metrics={}, extra={})  # the server knows nothing but the mask it sent
        try:
            self.aggregator.add(update, weights, offered=mask)
        except OverflowError as error:
            name = client.layout.slot_of_largest(weights)
            raise diverged(f"its weights cannot be summed, {name}: {error}", client) from error
        return update

    def too_few(self, attempts: Sequence[CohortResult]) -> bool:
        """Whether so many clients failed in the last attempt that the round must be repeated.

        Raises:
            ClientError: that was the last attempt.
        """
        last, faults = attempts[-1], self.workers.faults
        if not last.failures or len(last.in_time) >= faults.min_clients:
            return False
        if len(attempts) < faults.round_attempts:
            return True
        clients = len(last.updates) + len(last.failures)
        raise ClientError(
            f"round {self.round + 1}: {len(last.in_time)} of {clients} clients remained, min_clients is "
            f"{faults.min_clients}, after {faults.round_attempts} attempts; {last.failures[-1]}",
            last.failures[-1].trace,
        )

    def update_tier_masks(self) -> None:
        """Make the masks of all tiers anew; the server's mask or weights have changed."""
        with server_hook(self.scheduler, "tier_masks", self.server, self.round):
            self.tier_masks = self.scheduler.tier_masks(self.server, self.plan.budget.ratios)
            check_tier_masks(self.tier_masks, self.server, len(self.plan.budget.tiers))

    def report_update(self, update: ClientUpdate) -> None:
        """Tell the callbacks of a client that this process has trained, unless it was late."""
        if not update.late:
            call_hooks(self.fabric, "on_client_end", loop=self, update=update)

    @contextmanager
    def forgetting_failures(self) -> Iterator[None]:
        """If the block ends by an error, its failed clients do not count: a resumed run trains them again."""
        failed = self.failed
        try:
            yield
        except BaseException:
            self.failed = failed
            raise

    def skip_client(self, failure: Failure) -> None:
        """Count a client that failed, and tell the callbacks."""
        self.failed += 1
        call_hooks(self.fabric, "on_client_error", loop=self, failure=failure)
