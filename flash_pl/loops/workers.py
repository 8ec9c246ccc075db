"""Trains clients on all ranks: each rank its share, then all ranks meet once."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from flash_pl.checks import check_choice, check_integers
from flash_pl.errors import ClientError, ConfigError, ModuleError, RankError, RunError, SchedulerError
from flash_pl.launch import StopSignals
from flash_pl.ranks import Ranks
from flash_pl.schedulers import SparseScheduler
from flash_pl.server import ServerState


@dataclass(frozen=True)
class FaultPolicy:
    """Whether a round survives a client that fails: by an exception, a loss or weights that are not finite, no samples.

    Args:
        on_client_error: "raise" ends the run; "skip" goes on without the client.
        min_clients: with "skip", a round is repeated with a new cohort if clients failed and fewer than this number
            remain.
        round_attempts: with "skip", how often a round is tried before the run ends.

    Raises:
        ConfigError: by the key, what is not allowed.
    """

    on_client_error: str = "raise"
    min_clients: int = 1
    round_attempts: int = 3

    def __post_init__(self) -> None:
        check_choice("raise", "skip", on_client_error=self.on_client_error)
        check_integers(min_clients=self.min_clients, round_attempts=self.round_attempts)


class Fault(Exception):
    """A fault of somebody who raised nothing; the message says all."""


def check_mask(mask: object, maskable: int) -> None:
    """Refuse what is no mask of so many weights.

    Raises:
        Fault: it says what it is instead.
    """
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (maskable,):
        return
    found = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    raise Fault(f"its mask is {found}, not torch.bool of shape ({maskable},)")


def reason(error: Exception) -> str:
    """An exception and where it comes from, in one line: the innermost place that is in no installed package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({own[-1].filename}:{own[-1].lineno})"


@dataclass(frozen=True)
class Failure:
    """A client that failed; ``round`` counts from 1, 0 is stage 1."""

    client: int
    round: int
    reason: str
    trace: str

    @classmethod
    def of(cls, error: Exception, client: int, round: int) -> "Failure":
        """The failure behind an exception that is being handled."""
        if isinstance(error, Fault):
            return cls(client, round, str(error), "")
        return cls(client, round, reason(error), traceback.format_exc())

    def __str__(self) -> str:
        where = f"round {self.round}" if self.round else "stage 1"
        return f"client {self.client} in {where}: {self.reason}"


@contextmanager
def server_half(scheduler: SparseScheduler, hook: str, server: ServerState, round: int) -> Iterator[None]:
    """Around a ``hook`` of the server's half in the round with the index ``round``.

    Raises:
        SchedulerError: it has failed, or leaves the server a mask that is none.
    """
    try:
        yield
        check_mask(server.mask, server.layout.maskable)
    except (ConfigError, ModuleError, RunError):
        raise
    except Exception as error:
        where = f"{type(scheduler).__name__}.{hook} in round {round + 1}"
        if isinstance(error, Fault):
            raise SchedulerError(f"{where}: {error}") from error
        raise SchedulerError(f"{where}: {reason(error)}", traceback.format_exc()) from error


def check_offered(masks: Sequence[Tensor], server: ServerState, tiers: int) -> None:
    """Refuse all but a mask for each of the ``tiers``.

    Raises:
        Fault: which it is not.
    """
    if len(masks) != tiers:
        raise Fault(f"{len(masks)} masks for {tiers} tiers")
    for mask in masks:
        check_mask(mask, server.layout.maskable)


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
        for position in self.ranks.my_share(costs):
            if self.stop.received is not None:
                break
            try:
                trained = train(position)
            except (ConfigError, ModuleError):
                raise  # a setting or a module that cannot work is not one client's fault
            except Exception as error:
                mine[position] = Failure.of(error, clients[position], round)
                if self.faults.on_client_error == "raise":
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
                if self.faults.on_client_error == "raise":
                    raise ClientError(str(result), result.trace)
                if signal is None:  # otherwise the client is asked again when the run goes on
                    self.on_failure(result)
        return done, signal
