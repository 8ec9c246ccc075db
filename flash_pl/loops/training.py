"""The clients' half of a round: a cohort trains, and if too many of it fail, another one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from flash_pl.errors import ClientError, Interrupted
from flash_pl.loops.faults import Failure, Fault, check_mask
from flash_pl.loops.federation import Federation
from flash_pl.loops.plan import Member
from flash_pl.loops.server_half import server_half
from flash_pl.report import Ballot, Report


@dataclass(frozen=True)
class Trained:
    """The ballots of a cohort, in its order; those of clients that came ``late`` have no say in the round.

    ``wasted`` are all those of each attempt before, in which too many clients failed: they have had costs, no effect.
    """

    ballots: list[Ballot]
    late: list[Ballot]
    wasted: list[list[Ballot]] = field(default_factory=list)


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
                self.parts.accounts.link.remember([*trained.ballots, *trained.late])
                return replace(trained, wasted=wasted)
            wasted.append([*trained.ballots, *trained.late])
        raise ClientError(
            f"round {round + 1}: {len(trained.ballots)} of {len(cohort)} clients remained, min_clients is "
            f"{faults.min_clients}, after {faults.attempts} attempts; {failed[-1]}",
            failed[-1].trace,
        )

    def _attempt(self, cohort: Sequence[Member], masks: Sequence[Tensor], round: int) -> tuple[Trained, list[Failure]]:
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

    def _train(self, member: Member, masks: Sequence[Tensor], round: int) -> Report:
        """Train a client under the mask that its tier is offered, and add its weights to the sum if it is in time."""
        parts, link = self.parts, self.parts.accounts.link
        batches = parts.data.client_batches(member.client)
        if not batches.samples:
            raise Fault("it has no samples")
        context, held = parts.plan.context(member, len(batches), round), link.held(member.client)
        offered = parts.scheduler.client_mask(masks[member.tier], held, context)
        check_mask(offered, parts.client.layout.maskable)
        weights, mask, down = link.down(parts.server.weights, offered, held)
        parts.client.receive(weights, mask)
        report, up = link.up(parts.local.run(parts.client, parts.scheduler, batches, context), mask)
        report = parts.accounts.settle(report, down, up)
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
