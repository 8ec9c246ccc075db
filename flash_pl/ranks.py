"""The processes (ranks) of a run: how they divide work, exchange results and share errors."""

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

T = TypeVar("T")


class Ranks:
    """The processes of a run, seen from one of them. A run in a single process is a group of one.

    Every method but ``my_share`` is collective: all ranks must call it, in the same order.

    Args:
        fabric: a launched Fabric.
        timeout: seconds after which a rank that does not answer counts as gone. It must be longer than any rank may
            have to wait for another one, which is about a rank's share of a round.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.

    >>> ranks = Ranks(Fabric(accelerator="cpu", devices=1), timeout=60)
    >>> ranks.rank, ranks.size
    (0, 1)
    """

    def __init__(self, fabric: Fabric, timeout: float) -> None:
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self.timeout = timedelta(seconds=timeout)
        # Python objects and CPU tensors go through gloo, also when NCCL carries the tensors on GPUs.
        self.group: Any = dist.new_group(backend="gloo", timeout=self.timeout) if self.size > 1 else None

    def my_share(self, costs: Sequence[float]) -> list[int]:
        """Return the positions of the jobs that this rank does, given the ``costs`` of all jobs; see ``divide``.

        >>> Ranks(Fabric(accelerator="cpu", devices=1), timeout=60).my_share([5, 1, 4, 2])
        [0, 1, 2, 3]
        """
        return divide(costs, self.size)[self.rank]

    def gather_jobs(self, results: Mapping[int, T]) -> dict[int, T]:
        """Return the results of all jobs by position, given the results of this rank's jobs.

        >>> Ranks(Fabric(accelerator="cpu", devices=1), timeout=60).gather_jobs({1: "b", 0: "a"})
        {0: 'a', 1: 'b'}

        Raises:
            RankError: see ``gather``.
        """
        return dict(sorted(job for of_rank in self.gather(dict(results)) for job in of_rank.items()))

    def gather(self, item: T) -> list[T]:
        """Return the ``item`` of every rank, by rank.

        >>> Ranks(Fabric(accelerator="cpu", devices=1), timeout=60).gather("from rank 0")
        ['from rank 0']

        Raises:
            RankError: a rank has ended, does not answer in time, or has failed inside ``sharing_errors``.
        """
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        with self._naming_the_lost_rank():
            dist.monitored_barrier(self.group, self.timeout)
            dist.all_gather_object(items, item, self.group)
        for rank, received in enumerate(items):
            if isinstance(received, _ErrorMessage) and rank != self.rank:
                raise RankError(rank, received.text)
        return items

    def broadcast(self, function: Callable[[], T]) -> T:
        """Call ``function`` on rank 0 and return its result on all ranks; its error becomes an error on all ranks.

        >>> Ranks(Fabric(accelerator="cpu", devices=1), timeout=60).broadcast(lambda: 2 + 2)
        4

        Raises:
            RankError: rank 0 has failed; or see ``gather``.
        """
        with self.sharing_errors():
            result: list[Any] = [function() if self.rank == 0 else None]
        self.gather(None)
        if self.size > 1:
            with self._naming_the_lost_rank():
                dist.broadcast_object_list(result, group=self.group)
        return result[0]

    def sum_(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over all ranks. With integers the sum does not depend on an order.

        >>> tensor = torch.tensor([1, 2])
        >>> Ranks(Fabric(accelerator="cpu", devices=1), timeout=60).sum_(tensor)
        >>> tensor
        tensor([1, 2])

        Raises:
            RankError: see ``gather``.
        """
        if self.size == 1:
            return
        self.gather(None)  # notices a rank that has failed; all_reduce would wait for it
        with self._naming_the_lost_rank():
            if tensor.device.type == "cuda" and dist.get_backend() == "nccl":
                dist.all_reduce(tensor)
            else:
                on_host = tensor.cpu()
                dist.all_reduce(on_host, group=self.group)
                if on_host is not tensor:
                    tensor.copy_(on_host)

    @contextmanager
    def sharing_errors(self) -> Iterator[None]:
        """Send an error in the block to the other ranks, so that their next ``gather`` raises ``RankError``.

        Without this they would wait until the timeout. On this rank the error is raised as it is:

        >>> ranks = Ranks(Fabric(accelerator="cpu", devices=1), timeout=60)
        >>> with ranks.sharing_errors():
        ...     raise OSError("the disk is full")
        Traceback (most recent call last):
        OSError: the disk is full
        """
        try:
            yield
        except (ClientError, Interrupted, RankError):
            raise  # these come from a gather, so all ranks have them already
        except Exception as error:
            if not getattr(error, "was_shared", False):  # blocks may be nested
                error.was_shared = True  # type: ignore[attr-defined]
                with suppress(RunError):  # the other ranks have failed too, or are gone
                    self.gather(_ErrorMessage(str(error) or type(error).__name__))
            raise

    @contextmanager
    def _naming_the_lost_rank(self) -> Iterator[None]:
        """Turn an error of torch.distributed into a ``RankError`` that says which rank is gone."""
        try:
            yield
        except RuntimeError as error:
            if (lost := self._disconnected_rank()) is None:
                # All connections work, so a rank did not come in time. Only rank 0 learns which one, by the message of
                # monitored_barrier; the others wait for rank 0.
                named = re.search(r"Ranks? (\d+)[\d, ]* failed to pass", str(error))
                lost = int(named[1]) if named else 0
            if lost == self.rank:
                raise RunError(f"the connection to another rank was lost ({error})") from error
            seconds = self.timeout.total_seconds()
            raise RankError(lost, f"it has ended, or has not answered for {seconds:g} s", gone=True) from error

    def _disconnected_rank(self) -> int | None:
        """Return the first rank to which the connection is broken, None if there is none."""
        for rank in range(self.size):
            try:
                if rank != self.rank:
                    dist.isend(torch.zeros(1), rank, group=self.group)
            except RuntimeError:
                return rank
        return None


@dataclass(frozen=True)
class _ErrorMessage:
    """What a rank that has failed sends to ``gather`` in place of an item."""

    text: str


def divide(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Divide jobs among ranks so that all need about the same time.

    Longest processing time first: the jobs are taken from the longest to the shortest, and each goes to the rank with
    the least work so far. The busiest rank then needs at most 4/3 - 1/(3 ranks) times the best possible time (Graham,
    SIAM J. Appl. Math. 17, 1969). Among equal costs the first job goes first, among equal loads the first rank is
    taken, so every rank computes the same division.

    Args:
        costs: the cost of each job, such as a client's number of samples.
        ranks: the number of ranks.

    Returns:
        For each rank the positions of its jobs, increasing; a rank may have none.

    >>> divide([5, 1, 4, 2], ranks=2)
    [[0, 1], [2, 3]]
    """
    loads, shares = [0.0] * ranks, [[] for _ in range(ranks)]  # type: tuple[list[float], list[list[int]]]
    for job in sorted(range(len(costs)), key=lambda job: -costs[job]):
        rank = loads.index(min(loads))
        loads[rank] += costs[job]
        shares[rank].append(job)
    return [sorted(share) for share in shares]
