"""Trains clients on all ranks: each rank its share, then all ranks meet once."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from flash_pl.errors import ClientError, ConfigError, ModuleError, RankError
from flash_pl.loops.faults import Failure, FaultPolicy
from flash_pl.ranks import Ranks, StopSignals

Trained = TypeVar("Trained")
Kept = TypeVar("Kept")


class CohortLoop:
    """The clients that train between two states of the server.

    Args:
        ranks: the processes of the run.
        stop: looked at after every client.
        faults: what to do about clients that fail.

    Attributes:
        on_failure: called, on every rank, for each client that failed and is left out.
    """

    def __init__(self, ranks: Ranks, stop: StopSignals, faults: FaultPolicy) -> None:
        self.ranks, self.stop, self.faults = ranks, stop, faults
        self.on_failure: Callable[[Failure], None] = lambda failure: None

    def run(
        self,
        clients: Sequence[int],
        costs: Sequence[float],
        round: int,
        state: Callable[[], int],
        train: Callable[[int], Trained],
        keep: Callable[[Trained], Kept],
    ) -> tuple[dict[int, Kept | Failure], int | None]:
        """Train ``clients``; all ranks get the same answer.

        Args:
            clients: their ids; ``costs`` how long each takes, in any unit.
            round: for messages, see ``Failure``.
            state: what the clients start from, in one number: all ranks must have the same.
            train: trains the client at a position of ``clients``; what it raises is the client's failure.
            keep: makes of that what the other ranks get.

        Returns:
            By position in ``clients`` what was kept, or the failure, and the signal that asked to stop, if one did:
            positions that nobody came to are then missing.

        Raises:
            ClientError: a client failed, and that is not to be skipped.
            RankError: another rank failed, is gone, or has another server.
        """
        mine: dict[int, Kept | Failure] = {}
        for position in self.ranks.mine(costs):
            if self.stop.received is not None:
                break
            try:
                trained = train(position)
            except (ConfigError, ModuleError):
                raise  # a setting or a module that cannot work is not one client's fault
            except Exception as error:
                mine[position] = Failure.of(error, clients[position], round)
                if self.faults.on_error == "raise":
                    break
            else:
                mine[position] = keep(trained)

        met = self.ranks.gather((mine, self.stop.received, state() if self.ranks.size > 1 else 0))
        for rank, (_, _, other) in enumerate(met):
            if other != met[self.ranks.rank][2]:
                raise RankError(rank, "its server differs from this rank's; are processors and threads the same?")
        done = dict(sorted(job for part, _, _ in met for job in part.items()))
        signal = next((signal for _, signal, _ in met if signal is not None), None)
        for result in done.values():
            if isinstance(result, Failure):
                if self.faults.on_error == "raise":
                    raise ClientError(str(result), result.trace)
                if signal is None:  # otherwise the client is asked again when the run goes on
                    self.on_failure(result)
        return done, signal
