"""Child processes: several at a time, failures, signals. Small scripts stand for trainings."""

import io
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from flash_pl.config import DirectoryLock
from flash_pl.errors import Interrupted
from flash_pl.sweep import progress
from flash_pl.sweep.jobs import Job
from flash_pl.sweep.processes import Processes
from flash_pl.sweep.progress import Outcome, SweepProgress

# Like a training it ends with 143 after a signal, and says so in a file.
PATIENT = """
import pathlib, signal, sys, time
def stop(number, frame):
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGUSR2, stop)
pathlib.Path(sys.argv[1], "ready").touch()
while True:
    time.sleep(0.01)
"""
GOOD = "import pathlib, sys; pathlib.Path(sys.argv[1], 'result.json').write_text('{\"accuracy\": 0.5}')"


@dataclass(frozen=True)
class Script:
    """The attributes of a job that Processes uses."""

    name: str
    directory: Path
    code: str

    @property
    def log(self):
        return self.directory / "log"

    @property
    def command(self):
        return [sys.executable, "-c", self.code, str(self.directory)]


@pytest.fixture
def script(tmp_path):
    def make(name, code):
        (tmp_path / name).mkdir()
        return Script(name, tmp_path / name, code)

    return make


def test_a_failure_is_reported_by_its_last_line_and_others_go_on(script):
    jobs = [
        script("a", "import sys; print('first'); print('the cause  \\n', file=sys.stderr); sys.exit(7)"),
        script("b", GOOD),
        script("c", "pass"),
        script("d", "import os; os.kill(os.getpid(), 9)"),
    ]
    started, ended = [], []
    outcomes = Processes(2, started.append, ended.append).run(jobs)
    assert started == jobs and sorted(outcome.job.name for outcome in ended) == list("abcd") and len(outcomes) == 4
    by_name = {outcome.job.name: outcome for outcome in outcomes}
    assert by_name["b"].result == {"accuracy": 0.5}
    assert by_name["a"].result is None and by_name["a"].reason == "the cause (exit code 7)"
    assert "result.json" in by_name["c"].reason and by_name["d"].reason == "it printed nothing (exit code -9)"


def test_no_more_than_the_workers_at_a_time(script):
    count, most = 0, 0

    def start(job):
        nonlocal count, most
        count += 1
        most = max(most, count)

    def end(outcome):
        nonlocal count
        count -= 1

    Processes(2, start, end).run([script(name, GOOD) for name in "abcde"])
    assert (count, most) == (0, 2)


def test_a_signal_is_passed_on_and_waited_for(script, monkeypatch):
    jobs = [script("a", GOOD), script("b", PATIENT), script("c", PATIENT), script("d", GOOD)]
    ended, started = [], []
    processes = Processes(2, started.append, ended.append)
    monkeypatch.setattr("time.sleep", _kill_when_ready([job.directory / "ready" for job in jobs[1:3]]))
    with pytest.raises(Interrupted) as caught:
        processes.run(jobs)
    assert caught.value.signal == signal.SIGTERM and "goes on" in caught.value.remedy
    assert [job.name for job in started] == ["a", "b", "c"] and [outcome.job.name for outcome in ended] == ["a"]
    assert all((job.directory / "saved").exists() for job in jobs[1:3]) and not processes.running


def _kill_when_ready(files):
    """A pause after which, once, when the files are there, this process gets SIGTERM."""
    sent = []

    def pause(seconds):
        if not sent and all(file.exists() for file in files):
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    return pause


def test_a_child_that_starts_just_when_the_signal_comes_gets_it_too(script):
    job = script("a", PATIENT)

    def start(job):
        os.kill(os.getpid(), signal.SIGTERM)  # after the start, but the order of both is the system's

    class Late(Processes):
        def _forward(self, number):
            """The process is not known yet."""

    processes = Late(1, start, lambda outcome: None)
    with pytest.raises(Interrupted):
        processes.run([job])
    assert not processes.running


def test_a_job_in_use_comes_last_and_is_not_started_as_long_as_it_is(script, monkeypatch):
    jobs = [script("a", GOOD), script("b", GOOD), script("c", GOOD)]
    monkeypatch.setattr("flash_pl.sweep.processes.PATIENCE", 0.2)
    locks = [DirectoryLock(job.directory) for job in jobs[:2]]
    assert [lock.acquire() for lock in locks] == [None, None]
    started = []

    def end(outcome):
        if outcome.job.name == "c":
            locks[1].release(keep=True)

    outcomes = Processes(1, started.append, end).run(jobs)
    assert [job.name for job in started] == ["c", "b", "a"]  # a is only reported
    results = {outcome.job.name: outcome for outcome in outcomes}
    assert results["b"].result and results["c"].result and results["a"].result is None
    assert f"process {os.getpid()} " in results["a"].reason and str(jobs[0].directory) in results["a"].reason
    locks[0].release(keep=True)


def test_an_error_of_the_sweep_itself_leaves_no_child(script):
    seen = []

    def start(job):
        seen.extend(processes.running)
        raise OSError("disk full")

    processes = Processes(1, start, lambda outcome: None)
    with pytest.raises(OSError, match="disk full"):
        processes.run([script("a", PATIENT)])
    assert [process.poll() for process in seen] == [-signal.SIGTERM]


@pytest.mark.parametrize(
    ("monitor", "result", "text"),
    [
        ("val_acc", {"accuracy": 0.5}, "last accuracy 50.0 %, 2.50 s"),
        ("val_loss", {"accuracy": 2.25}, "last val_loss 2.2500, 2.50 s"),
        ("val_f1", {"accuracy": None}, "last val_f1 not logged, 2.50 s"),
        ("val_acc", None, "failed: exit code 3; see out/job.log"),
    ],
)
def test_a_line_for_a_run_that_has_ended(monitor, result, text):
    job = Job("job", Path("out/job"), (), {"trainer": {"monitor": monitor, "monitor_mode": "max"}}, {})
    out = io.StringIO()
    with SweepProgress(4, Console(file=out)) as progress:
        progress.on_start(job)
        progress.on_end(Outcome(job, result, "exit code 3", 2.5))
    assert out.getvalue() == f"1 of 4  job  {text}\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def rounds_of(job, rounds):
    job.directory.mkdir(exist_ok=True)
    lines = ["round,val_acc", *(f"{round},0.5" for round in range(1, rounds + 1)), "9"]  # a line is being written
    (job.directory / "metrics.csv").write_bytes("\r\n".join(lines).encode())


@pytest.mark.parametrize("in_terminal", [True, False])
def test_the_rounds_of_running_jobs_and_the_time_left_of_the_sweep(in_terminal, tmp_path, monkeypatch):
    """Two jobs of ten rounds, of which one had four from before; after 60 s there are six new rounds."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    jobs = [Job(name, tmp_path / name, (), {"rounds": 10, "trainer": {}}, {}) for name in ("a", "b")]
    rounds_of(jobs[0], 4)
    file = Terminal() if in_terminal else io.StringIO()
    with SweepProgress(3, Console(file=file, width=60)) as shown:
        shown.expect(jobs)
        for job in jobs:
            shown.on_start(job)
        assert shown.parts() == ["0 of 3 runs", "round 4/10, 0/10", "a", "b"]
        rounds_of(jobs[0], 8)
        rounds_of(jobs[1], 2)
        now[0] += 60.0
        shown.on_wait()
        # 60 s for six rounds, and ten are left.
        assert shown.parts() == ["0 of 3 runs", "1 min 40 s left", "round 8/10, 2/10", "a", "b"]
        now[0] += 0.5
        shown.on_wait()  # too early for another line
        shown.on_end(Outcome(jobs[0], None, "killed", 60.0))
        assert shown.parts()[1] == "1 min 21 s left"  # the rounds that failed will not be trained
    lines = file.getvalue().splitlines()
    if not in_terminal:
        assert lines[0] == "0 of 3 runs  1 min 40 s left  round 8/10, 2/10  a  b" and len(lines) == 2


def test_a_line_about_a_run_is_broken_between_words_in_a_terminal(tmp_path):
    job = Job("lr=0.05,seed=1", Path("out/lr=0.05,seed=1"), (), {"rounds": 1, "trainer": {}}, {})
    shown = {}
    for kind in (io.StringIO, Terminal):
        with SweepProgress(2, Console(file=kind(), width=45, force_terminal=False)) as progress:
            progress.on_start(job)
            progress.on_end(Outcome(job, None, "exit code 3", 2.5))
        shown[kind] = progress.console.file.getvalue()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown[Terminal])
    lines = [line for line in text.splitlines() if line and "of 2 runs" not in line]
    assert len(lines) > 1 and all(len(line) <= 45 for line in lines)
    assert "\n".join(lines).split() == shown[io.StringIO].split()


def test_processes_report_that_time_passes(script):
    waits = []
    Processes(1, lambda job: None, lambda outcome: None, lambda: waits.append(1)).run([script("a", GOOD)])
    assert waits
