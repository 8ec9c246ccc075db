"""Work on several threads, as many as torch uses."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch

from flash_pl.kernels.library import Workspace


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="flash_pl")


@cache
def workspace(thread: int) -> Workspace:
    """The scratch memory of a thread of the pool; 0 is the caller's."""
    return Workspace()


def cuts(weights: Sequence[int], parts: int) -> list[int]:
    """Where to cut a sequence into ``parts`` runs of about equal sums: ``parts + 1`` positions, the first 0.

    >>> cuts([1, 1, 1, 1, 4], 2)
    [0, 4, 5]
    """
    total, done, found = sum(weights), 0, [0]
    for place, weight in enumerate(weights):
        while len(found) < parts and done + weight / 2 >= total * len(found) / parts:
            found.append(place)
        done += weight
    return found + [len(weights)] * (parts + 1 - len(found))


def spread(run: Callable[[int, int, int], None], weights: Sequence[int]) -> None:
    """Call ``run(thread, first, last)`` on runs of positions of ``weights`` that are about equally heavy.

    A kernel releases Python's lock, so the calls work side by side.
    """
    threads = min(torch.get_num_threads(), len(weights))
    if threads <= 1:
        run(0, 0, len(weights))
        return
    places = cuts(weights, threads)
    jobs = [
        _pool(threads - 1).submit(run, thread, first, last)
        for thread, (first, last) in enumerate(pairwise(places))
        if thread and first < last
    ]
    run(0, places[0], places[1])
    for job in jobs:
        job.result()
