"""Spreads the work on clients over the processes of a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from flash_pl.errors import ClientError, ConfigError, Interrupted, ModuleError, SchedulerError, ServerError
from flash_pl.fingerprint import fingerprint
from flash_pl.loops.agreement import OF_CHANGES, check_equal
from flash_pl.loops.failures import Failure
from flash_pl.loops.settings import FaultPolicy, Participant
from flash_pl.ranks import Ranks
from flash_pl.signals import StopSignals

Result = TypeVar("Result")


class WorkInterrupted(Interrupted):
    """A signal came while clients were being worked on.

    Attributes:
        results: results and failures of the clients that were done, by position.
    """

    def __init__(self, number: int, results: dict[int, Any]) -> None:
        super().__init__(number)
        self.results = results


class Workers:
    """Runs a function for many clients, each process its share, and gives every process all results.

    Args:
        ranks: the processes of the run.
        stop: looked at after every client.
        faults: what a failing client does to the run.

    Attributes:
        on_failure: called, on every process, for each client that failed and is skipped.
        start_state: the parts of the state from which clients start. All processes must have them alike when they
            exchange results; otherwise the sum of the clients would hide the difference.
        whole_state: all parts of the state that processes must have alike.
    """

    def __init__(self, ranks: Ranks, stop: StopSignals, faults: FaultPolicy) -> None:
        self.ranks, self.stop, self.faults = ranks, stop, faults
        self.on_failure: Callable[[Failure], None] = lambda failure: None
        self.start_state: Callable[[], Mapping[str, Mapping[Any, Any]]] = dict
        self.whole_state: Callable[[], Mapping[str, Mapping[Any, Any]]] = dict

    def map(
        self,
        function: Callable[[Participant], Result],
        participants: Sequence[Participant],
        round: int,
        on_result: Callable[[Result], None] | None = None,
    ) -> list[Result | Failure]:
        """Call ``function`` for every participant; all processes get the same list.

        Args:
            function: what it raises is the client's failure, but for a ``ConfigError``, ``ModuleError``,
                ``SchedulerError`` or ``ServerError``, which concern all clients.
            participants: clients; their numbers of samples say how long each takes.
            round: for messages, see ``Failure``.
            on_result: called with each result in the process that made it; what it raises ends the run.

        Returns:
            One result or failure per participant, in their order.

        Raises:
            ClientError: a client failed, and failing clients are not skipped.
            WorkInterrupted: a signal asked to stop.
            RankError: another process failed, is gone, or has another server.
        """
        mine: dict[int, Result | Failure] = {}
        for position in self.ranks.my_share([participant.samples for participant in participants]):
            if self.stop.received is not None:
                break
            try:
                result = function(participants[position])
            except (ConfigError, ModuleError, SchedulerError, ServerError):
                raise
            except Exception as error:
                mine[position] = Failure.of(error, participants[position].client, round)
                if self.faults.on_client_error == "raise":
                    break
            else:
                if on_result is not None:
                    on_result(result)
                mine[position] = result

        signal, results = self._gather(mine, round)
        for failure in results.values():
            if isinstance(failure, Failure):
                if self.faults.on_client_error == "raise":
                    raise ClientError(str(failure), failure.trace)
                if signal is None:  # after a signal the client gets a second chance when the run goes on
                    self.on_failure(failure)
        if signal is not None:
            raise WorkInterrupted(signal, results)
        return list(results.values())

    def compare(self, when: str) -> None:
        """Check that all processes have the same state; ``when`` is a clause such as "after round 7".

        Raises:
            RankError: one of them has another state; the error is the same in all processes.
        """
        if self.ranks.size > 1:
            check_equal(self.ranks.gather(fingerprint(self.whole_state())), when)

    def _gather(self, mine: dict[int, Result | Failure], round: int) -> tuple[int | None, dict[int, Result | Failure]]:
        """The signal that any process has received, and the results of all processes by position."""
        start = fingerprint(self.start_state()) if self.ranks.size > 1 else {}
        everyone = self.ranks.gather((mine, self.stop.received, start))
        when = f"with the clients of round {round}" if round else "with the clients of stage 1"
        check_equal([start for _, _, start in everyone], when, OF_CHANGES)
        signal = next((signal for _, signal, _ in everyone if signal is not None), None)
        return signal, dict(sorted(item for results, _, _ in everyone for item in results.items()))
