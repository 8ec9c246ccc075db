"""The child processes of a sweep: several runs at the same time, and a line on stderr about each."""

import json
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from flash_pl.compare import title_of
from flash_pl.config import holder_of
from flash_pl.errors import ConfigError, Interrupted
from flash_pl.parent import child_environment
from flash_pl.signals import SIGNALS, StopSignals
from flash_pl.sweep.jobs import Job

PAUSE = 0.05  # seconds between two polls of the processes
# Seconds for which the last jobs may be in use by other processes. Those of a killed sweep end within this time.
PATIENCE = 12.0


def run_jobs(jobs: Sequence[Job], workers: int) -> tuple[list[Job], list[Job]]:
    """Train the jobs that have no finished run yet; an unfinished run is resumed.

    Returns:
        The jobs with a finished run, in order, and the jobs that failed or whose directory has another run.

    Raises:
        Interrupted: a signal came; the same sweep, started again, goes on.
    """
    missing, failed = [], []
    with SweepProgress(len(jobs)) as progress:
        for job in jobs:
            try:
                if run := job.finished():
                    progress.on_skip(job, job.other_options(run))
                else:
                    missing.append(job)
            except ConfigError as error:
                progress.on_refuse(job, error)
                failed.append(job)
        outcomes = Processes(workers, progress.on_start, progress.on_end).run(missing)
    failed += [outcome.job for outcome in outcomes if outcome.result is None]
    return [job for job in jobs if job not in failed], failed


@dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Args:
        job: the job.
        result: the content of result.json; None if the job failed.
        reason: the last line of the log of a job that failed.
        seconds: wall time.
    """

    job: Job
    result: dict[str, Any] | None
    reason: str
    seconds: float


class Processes:
    """Trains jobs in child processes.

    A signal to stop is passed on to all children; each saves its state and ends. A job whose directory another process
    is using comes after the others. If it is still in use then, it counts as failed.

    Args:
        workers: number of processes at the same time.
        on_start: called when a job has started.
        on_end: called when a job has ended.
    """

    def __init__(self, workers: int, on_start: Callable[[Job], None], on_end: Callable[[Outcome], None]) -> None:
        self.workers, self.on_start, self.on_end = workers, on_start, on_end
        self.running: dict[subprocess.Popen[bytes], tuple[Job, float]] = {}
        self.signaled: set[subprocess.Popen[bytes]] = set()  # processes that got the signal to stop

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Train all jobs in their order; the failure of one does not stop the others.

        Raises:
            Interrupted: a signal came; all children have ended.
        """
        queue, outcomes = deque(jobs), list[Outcome]()
        waiting_since = None
        with StopSignals(self._forward) as signals:
            try:
                while self.running or (queue and signals.received is None):
                    while len(self.running) < self.workers and signals.received is None and (job := _first_free(queue)):
                        queue.remove(job)
                        self._start(job)
                    if self.running or not queue:
                        waiting_since = None
                    elif waiting_since is None:
                        waiting_since = time.monotonic()
                    elif time.monotonic() - waiting_since > PATIENCE:
                        outcomes += [self._in_use(job) for job in queue]
                        queue.clear()
                    if signals.received is not None:
                        self._forward_late(signals.received)
                    time.sleep(PAUSE)
                    outcomes += self._collect(stopping=signals.received is not None)
                if signals.received is not None:
                    raise Interrupted(signals.received, "the same command goes on")
            finally:
                for process in self.running:  # empty unless this process itself failed
                    process.terminate()
                    process.wait()
        return outcomes

    def _start(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "ab") as log:
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(),
            )
        self.running[process] = job, time.monotonic()
        self.on_start(job)

    def _collect(self, stopping: bool) -> list[Outcome]:
        """The outcomes of the processes that ended since the last poll; when ``stopping`` only of finished runs."""
        outcomes = []
        for process in [process for process in self.running if process.poll() is not None]:
            job, started = self.running.pop(process)
            outcome = _outcome(job, process.returncode, time.monotonic() - started)
            if outcome.result is not None or not stopping:
                outcomes.append(outcome)
                self.on_end(outcome)
        return outcomes

    def _in_use(self, job: Job) -> Outcome:
        outcome = Outcome(
            job, None, f"{holder_of(job.directory) or 'another process'} is writing a run in {job.directory}", 0.0
        )
        self.on_start(job)
        self.on_end(outcome)
        return outcome

    def _forward(self, number: int) -> None:
        for process in list(self.running):
            process.send_signal(number)
            self.signaled.add(process)

    def _forward_late(self, received: int) -> None:
        """Pass the signal on to a process that was just being started when the signal came."""
        for process in self.running.keys() - self.signaled:
            process.send_signal(SIGNALS[signal.Signals(received)])
            self.signaled.add(process)


def _first_free(jobs: Iterable[Job]) -> Job | None:
    """The first job whose directory is not in use, None if there is none."""
    return next((job for job in jobs if holder_of(job.directory) is None), None)


def _outcome(job: Job, code: int, seconds: float) -> Outcome:
    try:
        if code == 0:
            return Outcome(job, json.loads((job.directory / "result.json").read_text(encoding="utf-8")), "", seconds)
        lines = job.log.read_text(encoding="utf-8", errors="replace").split("\n")
        reason = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    except (OSError, ValueError) as error:
        reason = str(error)
    return Outcome(job, None, f"{reason} (exit code {code})", seconds)


class SweepProgress:
    """A line on stderr for every run that has ended and, in a terminal, a bar with the names of the running jobs."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr)
        self.total, self.done, self.names = total, 0, list[str]()
        columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
        self.bar = Progress(*columns, console=self.console, disable=not self.console.file.isatty(), transient=True)
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> "SweepProgress":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self.bar.disable:  # older versions of rich print an empty line at the end of a disabled bar
            self.bar.stop()

    def on_skip(self, job: Job, other_options: str) -> None:
        """The job has a finished run; ``other_options`` of the run differ from the job's, but not the experiment."""
        self._print(job, f"already there, with {other_options}" if other_options else "already there")

    def on_refuse(self, job: Job, error: Exception) -> None:
        """The directory of the job cannot be used."""
        self._print(job, f"error: {error}")

    def on_start(self, job: Job) -> None:
        """The job has started."""
        self.names.append(job.name)
        self._update()

    def on_end(self, outcome: Outcome) -> None:
        """The job has ended."""
        self.names.remove(outcome.job.name)
        if outcome.result is None:
            self._print(outcome.job, f"failed: {outcome.reason}; see {outcome.job.log}")
        else:
            value, monitor = outcome.result.get("accuracy"), title_of(outcome.job.config["trainer"]["monitor"])
            shown = "not logged" if value is None else f"{value:.4f}"
            self._print(outcome.job, f"{monitor} {shown}, {outcome.seconds:.1f} s")

    def _print(self, job: Job, text: str) -> None:
        self.done += 1
        line = f"{self.done} of {self.total}  {job.name}  {' '.join(text.split())}"
        self.console.print(Text(line), soft_wrap=True)
        self._update()

    def _update(self) -> None:
        self.bar.update(self.task, completed=self.done, description="  ".join(self.names))
