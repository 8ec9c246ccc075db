"""A run that is asked to stop."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

# Each with the one by which a process passes it on to those that it has started: by that they only note it. Windows has
# none to spare, there it is the same one.
SIGNALS: dict[signal.Signals, signal.Signals] = {
    signal.SIGTERM: getattr(signal, "SIGUSR2", signal.SIGTERM),
    signal.SIGINT: getattr(signal, "SIGUSR1", signal.SIGINT),
}
# A terminal, a launcher and a scheduler may all pass on the same request.
SAME_REQUEST = 1.0  # seconds


class StopSignals:
    """While it is open the first SIGTERM or SIGINT is only noted, for the run to stop when it next can; a second one,
    a second or more later, stops the process at once.

    Outside the main thread, where Python takes no handlers, it notes nothing.

    Args:
        forward: sends a signal to the processes that this one has started; the first request goes there as SIGUSR1 or
            SIGUSR2, since the same request may reach them directly as well, sooner or later.

    Attributes:
        received: the number of the signal, or None.
    """

    def __init__(self, forward: Callable[[int], None] = lambda number: None) -> None:
        self.received: int | None = None
        self.forward = forward
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number, passed in SIGNALS.items():
                for one, handler in {passed: self._note, number: self._handle}.items():
                    self._before[one] = signal.signal(one, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, passed: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = next(number for number, other in SIGNALS.items() if other == passed)
            self._since = time.monotonic()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._since = number, now
            self.forward(SIGNALS[signal.Signals(number)])
        elif now - self._since >= SAME_REQUEST:
            self.forward(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
