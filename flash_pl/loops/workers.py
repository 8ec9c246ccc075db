"""Spreads the work on clients over the processes of a run."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flash_pl.errors import ClientError, ConfigError, Interrupted, ModuleError, RankError, ServerError
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
        fingerprint: a checksum of the server's state, from which all processes must start alike.

    Attributes:
        on_failure: called, on every process, for each client that failed and is skipped.
    """

    def __init__(self, ranks: Ranks, stop: StopSignals, faults: FaultPolicy, fingerprint: Callable[[], int]) -> None:
        self.ranks, self.stop, self.faults, self.fingerprint = ranks, stop, faults, fingerprint
        self.on_failure: Callable[[Failure], None] = lambda failure: None

    def map(
        self,
        function: Callable[[Participant], Result],
        participants: Sequence[Participant],
        round: int,
        on_result: Callable[[Result], None] | None = None,
    ) -> list[Result | Failure]:
        """Call ``function`` for every participant; all processes get the same list.

        Args:
            function: what it raises is the client's failure, but for a ``ConfigError``, ``ModuleError`` or
                ``ServerError``, which no single client has caused.
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
            except (ConfigError, ModuleError, ServerError):
                raise
            except Exception as error:
                mine[position] = Failure.of(error, participants[position].client, round)
                if self.faults.on_client_error == "raise":
                    break
            else:
                if on_result is not None:
                    on_result(result)
                mine[position] = result

        signal, results = self._gather(mine)
        for failure in results.values():
            if isinstance(failure, Failure):
                if self.faults.on_client_error == "raise":
                    raise ClientError(str(failure), failure.trace)
                if signal is None:  # after a signal the client gets a second chance when the run goes on
                    self.on_failure(failure)
        if signal is not None:
            raise WorkInterrupted(signal, results)
        return list(results.values())

    def _gather(self, mine: dict[int, Result | Failure]) -> tuple[int | None, dict[int, Result | Failure]]:
        """The signal that any process has received, and the results of all processes by position."""
        checksum = self.fingerprint() if self.ranks.size > 1 else 0
        everyone = self.ranks.gather((mine, self.stop.received, checksum))
        for rank, (_, _, other) in enumerate(everyone):
            if other != everyone[self.ranks.rank][2]:
                raise RankError(rank, "its server differs from this rank's; are processors and threads the same?")
        signal = next((signal for _, signal, _ in everyone if signal is not None), None)
        return signal, dict(sorted(item for results, _, _ in everyone for item in results.items()))
