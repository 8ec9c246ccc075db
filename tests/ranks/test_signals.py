"""The first signal is noted, a second one later stops at once."""

import os
import signal
import subprocess
import sys
import time

from flash_pl.ranks import StopSignals

TWICE = """
import os, signal, time
from flash_pl.ranks import StopSignals
with StopSignals() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    print(int(stop.received), flush=True)
    time.sleep(1.1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(9)
"""


def test_the_first_signal_is_noted_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    forwarded = []
    with StopSignals(forwarded.append) as stop:
        assert stop.received is None
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert stop.received == signal.SIGINT and forwarded == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_stops_at_once():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{int(signal.SIGTERM)}\n" and done.returncode == -signal.SIGTERM
