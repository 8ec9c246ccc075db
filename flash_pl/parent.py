"""A process that was started for a run ends soon after the process that started it is gone, for instance killed.

In a process that may need a watch ``flash_pl/__init__.py`` imports this file first, and the import starts the watch. So
it works already while torch is imported, which takes seconds.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from flash_pl.signals import SIGNALS

VARIABLE = "FLASH_PL_PARENT"  # the process id of the parent
INTERVAL = 0.5  # seconds between two looks at the parent
GRACE = 5.0  # seconds to save the run after that


def child_environment(**variables: str) -> dict[str, str]:
    """The environment for a child that has to end with this process: that of this process, and ``variables``.

    >>> child_environment(LOCAL_RANK="1")[VARIABLE] == str(os.getpid())
    True
    """
    return os.environ | variables | {VARIABLE: str(os.getpid())}


def parent_to_watch() -> int | None:
    """The process id of the process with which this one must end: a sweep, rank 0 or torchrun; None without one.

    The variable is taken away, since it is not meant for the children of this process.
    """
    named = os.environ.pop(VARIABLE, None)
    if os.name != "posix":  # Windows keeps the process id of a parent that has ended
        return None
    if named is None:
        return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    # Where another program stands between the two, such as a wrapper of Python's, there is no parent to watch.
    return int(named) if os.getppid() == int(named) or not _exists(int(named)) else None


def end_with(parent: int) -> None:
    """Wait until ``parent`` is not the parent of this process any more; then end this process.

    The process is asked to stop as by a forwarded SIGTERM: a run saves its state, and before the run the process ends
    at once. ``GRACE`` seconds later it is killed.
    """
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    with suppress(OSError):
        os.write(2, f"flash-pl: process {parent}, which started process {os.getpid()}, is gone; stopping\n".encode())
    # The system's timer ends the process also where this thread does not run any more, while the interpreter ends.
    signal.setitimer(signal.ITIMER_REAL, GRACE)
    os.kill(os.getpid(), SIGNALS[signal.SIGTERM])
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    with suppress(OSError):  # a killed process keeps its number until its own parent asks for its end
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    return True


if (_parent := parent_to_watch()) is not None:
    threading.Thread(target=end_with, args=[_parent], daemon=True).start()
