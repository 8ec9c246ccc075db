"""A process ends soon after the process that started it was killed, at whatever stage it is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flash_pl import parent

# Starts a child with the first argument as its code, says its number, and sleeps.
PARENT = """
import subprocess, sys, time
from flash_pl.parent import child_environment
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], env=child_environment())
print(child.pid, flush=True)
time.sleep(600)
"""
IMPORTS = "import sys, pathlib; pathlib.Path(sys.argv[1], 'ready').touch(); import flash_pl, time; time.sleep(600)"
RUNS = """
import sys, pathlib, time
from flash_pl.signals import StopSignals
with StopSignals() as stop:
    pathlib.Path(sys.argv[1], "ready").touch()
    while stop.received is None:
        time.sleep(0.05)
    pathlib.Path(sys.argv[1], "saved").touch()
"""


def wait(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("code", [IMPORTS, RUNS])
def test_a_child_ends_when_its_parent_is_killed(code, tmp_path):
    started = subprocess.Popen([sys.executable, "-c", PARENT, code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(started.stdout.readline())
    wait((tmp_path / "ready").exists)
    started.kill()
    started.communicate()
    wait(lambda: not Path(f"/proc/{child}").exists() or "\nState:\tZ" in Path(f"/proc/{child}/status").read_text(), 30)
    assert (tmp_path / "saved").exists() == (code == RUNS)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_killed_parent_is_gone_before_it_is_waited_for():
    killed = subprocess.Popen(["sleep", "600"])
    assert parent._exists(killed.pid)
    killed.kill()
    wait(lambda: "\nState:\tZ" in Path(f"/proc/{killed.pid}/status").read_text())
    assert not parent._exists(killed.pid)
    killed.wait()


def test_a_child_that_does_not_stop_is_killed(monkeypatch):
    events, parents = [], [7, 7, 1]
    monkeypatch.setattr(os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(os, "kill", lambda process, number: events.append(number))
    monkeypatch.setattr(time, "sleep", events.append)
    monkeypatch.setattr(signal, "setitimer", lambda timer, seconds: events.append(("timer", seconds)))
    parent.end_with(7)
    timer = "timer", parent.GRACE
    assert events == [parent.INTERVAL, parent.INTERVAL, timer, signal.SIGUSR2, parent.GRACE, signal.SIGKILL]
    assert parent.INTERVAL + parent.GRACE < 10


EXITS = """
import atexit, os, time
from flash_pl import parent
parent.INTERVAL, parent.GRACE = 0.01, 0.3
signals = __import__("signal")
signals.signal(signals.SIGUSR2, lambda *_: None)
import threading
threading.Thread(target=parent.end_with, args=[os.getppid() + 1], daemon=True).start()
time.sleep(0.1)

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(60)  # the end of the interpreter, in which the thread does not run any more

slow = Slow()
"""


def test_a_child_that_hangs_while_it_exits_is_killed_too():
    done = subprocess.run([sys.executable, "-c", EXITS], timeout=30)
    assert done.returncode == -signal.SIGALRM


def test_who_is_watched(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert parent.parent_to_watch() is None
    monkeypatch.setenv(parent.VARIABLE, str(os.getppid()))
    assert parent.parent_to_watch() == os.getppid()
    assert parent.parent_to_watch() is None  # the variable is not handed on
    monkeypatch.setenv(parent.VARIABLE, str(os.getpid()))  # alive, but not the parent: there is a program in between
    assert parent.parent_to_watch() is None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setenv(parent.VARIABLE, str(ended.pid))  # gone before this process looked
    assert parent.parent_to_watch() == ended.pid
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert parent.parent_to_watch() == os.getppid()
