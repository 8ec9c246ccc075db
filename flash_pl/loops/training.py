"""The clients' half of a round: a cohort trains, and if too many of it fail, another one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from flash_pl.client import ClientState
from flash_pl.costs import Link, by_name
from flash_pl.data import FederatedData
from flash_pl.errors import ClientError, Interrupted
from flash_pl.loops.cohort import CohortLoop
from flash_pl.loops.faults import Failure, Fault
from flash_pl.loops.local import LocalLoop
from flash_pl.loops.plan import Member, Plan
from flash_pl.report import Ballot, Report
from flash_pl.schedulers import SparseScheduler
from flash_pl.server import FedAvg, ServerState


class RoundTraining:
    """Trains the cohort of a round and leaves this rank's part of the sum in the aggregator.

    Args:
        plan: who trains.
        cohorts: trains clients on all ranks; it has the rules for those that fail.
        link: carries models to clients and reports to the server.
        on_client_end: called with the report of every client that this rank has trained.
    """

    def __init__(
        self,
        plan: Plan,
        cohorts: CohortLoop,
        local: LocalLoop,
        client: ClientState,
        server: ServerState,
        data: FederatedData,
        scheduler: SparseScheduler,
        aggregator: FedAvg,
        link: Link,
        on_client_end: Callable[[Report], None],
    ) -> None:
        self.link = link
        self.plan, self.cohorts, self.local, self.client, self.server = plan, cohorts, local, client, server
        self.data, self.scheduler, self.aggregator = data, scheduler, aggregator
        self.on_client_end = on_client_end

    def run(self, masks: Sequence[Tensor], round: int) -> list[Ballot]:
        """The ballots of the cohort, in its order.

        Args:
            masks: what the server offers each tier.

        Raises:
            ClientError: a client failed and is not to be skipped, or too few remained, time and again.
            Interrupted: a signal came.
        """
        faults = self.cohorts.faults
        for attempt in range(faults.attempts):
            cohort = self.plan.draw(round, attempt)
            ballots, failed = self._attempt(cohort, masks, round)
            if not failed or len(ballots) >= faults.min_clients:
                self.link.remember(ballots)
                return ballots
        raise ClientError(
            f"round {round + 1}: {len(ballots)} of {len(cohort)} clients remained, min_clients is "
            f"{faults.min_clients}, after {faults.attempts} attempts; {failed[-1]}",
            failed[-1].trace,
        )

    def _attempt(
        self, cohort: Sequence[Member], masks: Sequence[Tensor], round: int
    ) -> tuple[list[Ballot], list[Failure]]:
        server, samples = self.server, [member.samples for member in cohort]
        self.scheduler.on_round_start(server, masks, round)
        self.aggregator.reset(server.weights, server.layout.maskable, samples)
        done, signal = self.cohorts.run(
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
        return ballots, [result for result in done.values() if isinstance(result, Failure)]

    def _train(self, member: Member, masks: Sequence[Tensor], round: int) -> Report:
        """Train a client under the mask that its tier is offered, and add its weights to the sum."""
        batches = self.data.client_batches(member.client)
        if not batches.samples:
            raise Fault("it has no samples")
        context = self.plan.context(member, len(batches), round)
        offered = self.scheduler.client_mask(masks[member.tier], context)
        weights, mask, down = self.link.down(member.client, self.server.weights, offered)
        self.client.receive(weights, mask)
        report, up = self.link.up(self.local.run(self.client, self.scheduler, batches, context), mask)
        try:
            self.aggregator.update(report)
        except OverflowError as error:
            where = self.client.layout.slot_of_largest(report.weights)
            raise Fault(f"its weights cannot be summed ({where}: {error})") from error
        return replace(report, costs=by_name(down, up))

    def _keep(self, report: Report) -> Ballot:
        self.on_client_end(report)
        return Ballot.of(report)
