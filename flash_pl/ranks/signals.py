"""A run that is asked to stop."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A terminal, a launcher and a scheduler may all pass on the same request.
SAME_REQUEST = 1.0  # seconds


class StopSignals:
    """While it is open the first SIGTERM or SIGINT is only noted, for the run to stop when it next can; a second one,
    a second or more later, stops the process at once.

    Outside the main thread, where Python takes no handlers, it notes nothing.

    Args:
        forward: is called with every signal, to pass it on to the processes that this one has started.

    Attributes:
        received: the number of the signal, or None.
    """

    def __init__(self, forward: Callable[[int], None] = lambda number: None) -> None:
        self.received: int | None = None
        self.forward = forward
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._since = number, now
            self.forward(number)
        elif now - self._since >= SAME_REQUEST:
            self.forward(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
