"""Trainings in processes of their own, several at a time."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from flash_pl.compare import title_of
from flash_pl.errors import ConfigError, Interrupted
from flash_pl.launch import SIGNALS, StopSignals
from flash_pl.sweep.jobs import Job

PAUSE = 0.05  # seconds between two looks at the processes


@dataclass(frozen=True)
class Outcome:
    """How a training ended: its summary, or the last line of its log."""

    job: Job
    result: dict[str, Any] | None
    reason: str
    seconds: float


class Processes:
    """Trains jobs in child processes.

    A signal to stop is passed on to all of them, and waited for: each saves its state and ends.

    Args:
        workers: how many at a time.
        on_start, on_end: called when a job starts and when it has ended.
    """

    def __init__(self, workers: int, on_start: Callable[[Job], None], on_end: Callable[[Outcome], None]) -> None:
        self.workers, self.on_start, self.on_end = workers, on_start, on_end
        self.running: dict[subprocess.Popen[bytes], tuple[Job, float]] = {}
        self.told: set[subprocess.Popen[bytes]] = set()  # that they are to stop

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Train all jobs in their order; a failure does not keep the others.

        Raises:
            Interrupted: a signal came; no child is left.
        """
        queue, ended = list(reversed(jobs)), list[Outcome]()
        with StopSignals(self._forward) as signals:
            try:
                while self.running or (queue and signals.received is None):
                    while queue and len(self.running) < self.workers and signals.received is None:
                        self._start(queue.pop())
                    if signals.received is not None:
                        self._forward_late(signals.received)
                    time.sleep(PAUSE)
                    ended += self._collect(stopping=signals.received is not None)
                if signals.received is not None:
                    raise Interrupted(signals.received, "the same command goes on")
            finally:
                for process in self.running:  # only after an error of ours
                    process.terminate()
                    process.wait()
        return ended

    def _start(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "ab") as log:
            process = subprocess.Popen(job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.running[process] = job, time.monotonic()
        self.on_start(job)

    def _collect(self, stopping: bool) -> list[Outcome]:
        """The outcomes of the processes that have ended since the last look; when ``stopping`` only of whole runs."""
        ended = []
        for process in [process for process in self.running if process.poll() is not None]:
            job, started = self.running.pop(process)
            outcome = _outcome(job, process.returncode, time.monotonic() - started)
            if outcome.result is not None or not stopping:
                ended.append(outcome)
                self.on_end(outcome)
        return ended

    def _forward(self, number: int) -> None:
        for process in list(self.running):
            process.send_signal(number)
            self.told.add(process)

    def _forward_late(self, received: int) -> None:
        """Tell a process that was just being started when the signal came."""
        for process in self.running.keys() - self.told:
            process.send_signal(SIGNALS[signal.Signals(received)])
            self.told.add(process)


def _outcome(job: Job, code: int, seconds: float) -> Outcome:
    try:
        if code == 0:
            return Outcome(job, json.loads((job.directory / "result.json").read_text(encoding="utf-8")), "", seconds)
        lines = job.log.read_text(encoding="utf-8", errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it has said nothing")
    except (OSError, ValueError) as error:
        said = str(error)
    return Outcome(job, None, f"{said} (exit code {code})", seconds)


class SweepProgress:
    """A line on stderr for every run that is over and, in a terminal, a bar with the names of those that train."""

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
        if not self.bar.disable:  # older versions of rich end an empty line all the same
            self.bar.stop()

    def on_skip(self, job: Job, otherwise: str) -> None:
        """The run was there before, made ``otherwise`` than it would be now."""
        self._over(job, f"already there, with {otherwise}" if otherwise else "already there")

    def on_refuse(self, job: Job, error: Exception) -> None:
        """The run cannot be where it should."""
        self._over(job, f"error: {error}")

    def on_start(self, job: Job) -> None:
        self.names.append(job.name)
        self._update()

    def on_end(self, outcome: Outcome) -> None:
        self.names.remove(outcome.job.name)
        if outcome.result is None:
            self._over(outcome.job, f"failed: {outcome.reason}; see {outcome.job.log}")
        else:
            value, monitor = outcome.result.get("accuracy"), title_of(outcome.job.config["trainer"]["monitor"])
            shown = "not logged" if value is None else f"{value:.4f}"
            self._over(outcome.job, f"{monitor} {shown}, {outcome.seconds:.1f} s")

    def _over(self, job: Job, what: str) -> None:
        self.done += 1
        line = f"{self.done} of {self.total}  {job.name}  {' '.join(what.split())}"
        self.console.print(Text(line), soft_wrap=True)
        self._update()

    def _update(self) -> None:
        self.bar.update(self.task, completed=self.done, description="  ".join(self.names))


def sweep(jobs: Sequence[Job], workers: int) -> tuple[list[Job], list[Job]]:
    """Train the jobs whose runs are not there yet; what was begun goes on.

    Returns:
        The jobs with a whole run, in order, and those that failed or whose place is taken.

    Raises:
        Interrupted: a signal came; the same sweep goes on from there.
    """
    missing, failed = [], []
    with SweepProgress(len(jobs)) as progress:
        for job in jobs:
            try:
                if found := job.finished():
                    progress.on_skip(job, job.otherwise(found))
                else:
                    missing.append(job)
            except ConfigError as error:
                progress.on_refuse(job, error)
                failed.append(job)
        outcomes = Processes(workers, progress.on_start, progress.on_end).run(missing)
    failed += [outcome.job for outcome in outcomes if outcome.result is None]
    return [job for job in jobs if job not in failed], failed
