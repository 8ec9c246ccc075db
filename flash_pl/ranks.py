"""What the processes of a run say to each other."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor

from flash_pl.errors import ClientError, Interrupted, RankError, RunError


def share(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Divide jobs over ranks by longest processing time first: each goes to the rank with the least work so far.

    The makespan is at most 4/3 - 1/(3 ranks) of the best one (Graham, SIAM J. Appl. Math. 17, 1969). Equal costs go by
    position, equal loads by rank, so every rank finds the same division without asking.

    Args:
        costs: of the jobs, such as a client's number of samples.

    Returns:
        For every rank the positions of its jobs, increasing; some are empty where jobs are few.

    >>> share([5, 1, 4, 2], 2)
    [[0, 1], [2, 3]]
    """
    loads, parts = [0.0] * ranks, [[] for _ in range(ranks)]  # type: tuple[list[float], list[list[int]]]
    for job in sorted(range(len(costs)), key=lambda job: -costs[job]):
        rank = loads.index(min(loads))
        loads[rank] += costs[job]
        parts[rank].append(job)
    return [sorted(part) for part in parts]


T = TypeVar("T")


@dataclass(frozen=True)
class _Failure:
    """Said in place of what the others wait for."""

    reason: str


class Ranks:
    """The processes of a run, of which this is one; a run in a single process is a group of one.

    Args:
        fabric: launched.
        timeout: seconds after which a rank that does not answer counts as gone. It must exceed the longest time that
            one rank may have to wait for another, a share of a round.

    Attributes:
        rank, size: this process and how many there are.
    """

    def __init__(self, fabric: Fabric, timeout: float) -> None:
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self.timeout = timedelta(seconds=timeout)
        # Objects and signs of life go over the CPU, whatever carries the tensors of the devices.
        self.group: Any = dist.new_group(backend="gloo", timeout=self.timeout) if self.size > 1 else None

    def my_share(self, costs: Sequence[float]) -> list[int]:
        """The positions of this rank's share of jobs with these ``costs``, see ``share``."""
        return share(costs, self.size)[self.rank]

    def gather(self, item: T) -> list[T]:
        """Everybody's ``item`` by rank. All ranks must come here; the first one that waits in vain says for whom.

        Raises:
            RankError: a rank is gone, does not answer in time, or has failed (``sharing_errors``).
        """
        if self.size == 1:
            return [item]
        found: list[Any] = [None] * self.size
        with self._naming_the_missing():
            dist.monitored_barrier(self.group, self.timeout)
            dist.all_gather_object(found, item, self.group)
        for rank, said in enumerate(found):
            if isinstance(said, _Failure) and rank != self.rank:
                raise RankError(rank, said.reason)
        return found

    def gather_jobs(self, done: Mapping[int, T]) -> dict[int, T]:
        """The results of all jobs by position, from every rank's own; each job has been done by one rank."""
        return dict(sorted(job for part in self.gather(dict(done)) for job in part.items()))

    def broadcast(self, find: Callable[[], T]) -> T:
        """What ``find`` returns on rank 0, on all ranks; an error there is everybody's."""
        with self.sharing_errors():
            found: list[Any] = [find() if self.rank == 0 else None]
        self.gather(None)
        if self.size > 1:
            with self._naming_the_missing():
                dist.broadcast_object_list(found, group=self.group)
        return found[0]

    def sum_(self, tensor: Tensor) -> None:
        """Add up everybody's ``tensor``, in place. Whole numbers add up the same in any order.

        Raises:
            RankError: as ``gather``; the ranks meet before they add, so that nobody waits in vain.
        """
        if self.size > 1:
            self.gather(None)
            with self._naming_the_missing():
                dist.all_reduce(tensor, group=self.group if tensor.device.type == "cpu" else None)

    @contextmanager
    def sharing_errors(self) -> Iterator[None]:
        """What goes wrong inside on this rank, the others hear at the next meeting."""
        try:
            yield
        except (ClientError, Interrupted, RankError):
            raise  # all ranks have learned of these together
        except Exception as error:
            if not getattr(error, "told", False):  # contexts may be nested
                error.told = True  # type: ignore[attr-defined]
                with suppress(RunError):  # they know, or are gone
                    self.gather(_Failure(str(error) or type(error).__name__))
            raise

    @contextmanager
    def _naming_the_missing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if (lost := self._lost()) is None:
                # Only rank 0 knows who has not come to a meeting; the others wait for rank 0.
                named = re.search(r"Ranks? (\d+)[\d, ]* failed to pass", str(error))
                lost = int(named[1]) if named else 0
            if lost == self.rank:
                raise RunError(f"the connection to another rank was lost ({error})") from error
            seconds = self.timeout.total_seconds()
            raise RankError(lost, f"it has ended, or has not answered for {seconds:g} s", gone=True) from error

    def _lost(self) -> int | None:
        """The first rank to which the connection is broken."""
        for rank in range(self.size):
            try:
                if rank != self.rank:
                    dist.isend(torch.zeros(1), rank, group=self.group)
            except RuntimeError:
                return rank
        return None
