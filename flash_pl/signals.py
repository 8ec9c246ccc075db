"""How a signal stops a run: it is noted, and the run ends when its state is in order."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

# The signals that ask a run to stop, each with the signal by which a process forwards the request to the processes that
# it started. They only note a forwarded request: the user's signal may reach them directly too, sooner or later, and
# must not count as a second request. Windows has no user signals, so there a signal is forwarded as itself.
SIGNALS: dict[signal.Signals, signal.Signals] = {
    signal.SIGTERM: getattr(signal, "SIGUSR2", signal.SIGTERM),
    signal.SIGINT: getattr(signal, "SIGUSR1", signal.SIGINT),
}
# The terminal is gone. There is no third user signal, so the other processes are asked as by SIGTERM.
if (HANGUP := getattr(signal, "SIGHUP", None)) is not None:
    SIGNALS[HANGUP] = SIGNALS[signal.SIGTERM]
# A terminal, a launcher and a cluster's scheduler may all send the same request. Signals this close are one request.
SAME_REQUEST = 1.0  # seconds


class StopSignals:
    """Notes a request to stop inside its block, so that a run can stop when its state is in order.

    The first SIGTERM, SIGINT or SIGHUP is noted in ``received``. A second SIGTERM or SIGINT stops the process at once,
    if it comes at least ``SAME_REQUEST`` seconds later. A second SIGHUP has no effect, since it is no impatient user:
    the system and the shells send one each. SIGHUP stays ignored in a process that was started with ``nohup``. Outside
    the main thread, where Python allows no signal handlers, signals keep their usual effect.

    Args:
        forward: sends a signal to the processes that this one started; see ``SIGNALS``.

    Attributes:
        received: the number of the signal, None before a request.

    >>> with StopSignals() as stop:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     time.sleep(0.01)
    >>> stop.received == signal.SIGTERM
    True
    """

    def __init__(self, forward: Callable[[int], None] = lambda number: None) -> None:
        self.received: int | None = None
        self.forward = forward
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            handlers: dict[signal.Signals, Any] = dict.fromkeys(SIGNALS.values(), self._on_forwarded)
            handlers |= dict.fromkeys(SIGNALS, self._on_signal)  # on Windows both are the same signals
            if HANGUP is not None and signal.getsignal(HANGUP) == signal.SIG_IGN:
                del handlers[HANGUP]
            self._previous_handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
            self.forward(SIGNALS[signal.Signals(number)])
        elif number != HANGUP and now - self._received_at >= SAME_REQUEST:
            self.forward(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _on_forwarded(self, forwarded_as: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = next(number for number, other in SIGNALS.items() if other == forwarded_as)
            self._received_at = time.monotonic()
