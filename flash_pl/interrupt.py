"""Ctrl-C while a command starts: nothing has been written yet, so the process ends at once and in one line."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flash_pl.environment import starts_as_rank_0


@contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """In the block SIGINT ends the process with exit code 130 and one line on stderr.

    An exception would not do: the block imports torch, and imports run code that catches every exception or prints it.
    Outside the main thread, and where somebody else handles SIGINT or it is ignored, nothing changes.

    >>> with ended_by_interrupt():
    ...     signal.getsignal(signal.SIGINT) is signal.default_int_handler
    False
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if ours:
            signal.signal(signal.SIGINT, _end)
    except ValueError:  # not in the main thread; threading would say so, too, but takes longer to import than the rest
        ours = False
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    if starts_as_rank_0():
        os.write(2, b"flash-pl: interrupted\n")
    os._exit(130)
