"""Work on several threads, as many as torch uses, each with scratch memory of its own."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

_scratch = threading.local()


def scratch(floats: int) -> int:
    """The address of this thread's scratch memory, at least ``floats`` long; what it holds is lost at the next call."""
    memory = getattr(_scratch, "memory", None)
    if memory is None or len(memory) < floats:
        _scratch.memory = None  # let go of the old one first
        memory = _scratch.memory = torch.empty(floats, dtype=torch.float32)
    return int(memory.data_ptr())


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="flash_pl")  # a forked process has none of its parent's


def spread(work: Callable[[int, int], None], ranges: Sequence[tuple[int, int]]) -> None:
    """Call ``work(first, last)`` for each range at the same time; the calling thread does its share."""
    if len(ranges) > 1:
        pool = _pool(os.getpid(), torch.get_num_threads())
        others = [pool.submit(work, *each) for each in ranges[1:]]
        work(*ranges[0])
        for other in others:
            other.result()
    elif ranges:
        work(*ranges[0])


def shares(count: int, parts: int) -> list[tuple[int, int]]:
    """``count`` things in at most ``parts`` ranges of about the same length.

    >>> shares(5, 2), shares(1, 4)
    ([(0, 2), (2, 5)], [(0, 1)])
    """
    ends = [count * part // parts for part in range(parts + 1)]
    return [(first, last) for first, last in zip(ends, ends[1:], strict=False) if first < last]
