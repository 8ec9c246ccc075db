"""The first signal to stop is noted; a second one, some time later, stops the process at once."""

import os
import signal
import subprocess
import sys
import time

from flash_pl.signals import StopSignals

TWICE = """
import os, signal, time
from flash_pl.signals import StopSignals
with StopSignals() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    print(int(stop.received), flush=True)
    time.sleep(1.1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(9)
"""

WITHOUT = "import signal; del signal.SIGUSR1, signal.SIGUSR2"  # as on Windows
FORWARDED = """
import os, signal
from flash_pl.signals import StopSignals
before = signal.getsignal(signal.SIGINT)
with StopSignals(lambda number: print(int(number))) as stop:
    os.kill(os.getpid(), signal.SIGINT)
    print(int(stop.received))
assert signal.getsignal(signal.SIGINT) is before
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)


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
    done = run(TWICE)
    assert done.stdout == f"{int(signal.SIGTERM)}\n" and done.returncode == -signal.SIGTERM


HUNG_UP = """
import os, signal, time
from flash_pl.signals import StopSignals
with StopSignals(lambda number: print(int(number))) as stop:
    os.kill(os.getpid(), signal.SIGHUP)
    print(stop.received and int(stop.received), flush=True)
    time.sleep(1.1)
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(0.1)
"""


def test_a_hangup_is_noted_and_a_second_one_changes_nothing():
    done = run(HUNG_UP)
    assert done.stdout == f"{int(signal.SIGUSR2)}\n{int(signal.SIGHUP)}\n" and done.returncode == 0


def test_under_nohup_a_hangup_stays_ignored():
    done = run("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + HUNG_UP)
    assert done.stdout == "None\n" and done.returncode == 0


def test_without_user_signals_the_same_signal_is_forwarded():
    done = run(WITHOUT + TWICE)
    assert done.stdout == f"{int(signal.SIGTERM)}\n" and done.returncode == -signal.SIGTERM
    done = run(WITHOUT + FORWARDED)
    assert done.stdout == 2 * f"{int(signal.SIGINT)}\n" and done.returncode == 0
