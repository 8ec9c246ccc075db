"""The child processes of a sweep: several runs at the same time."""

import json
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from flash_pl.config import holder_of
from flash_pl.errors import ConfigError, Interrupted
from flash_pl.parent import child_environment
from flash_pl.signals import SIGNALS, StopSignals
from flash_pl.sweep.jobs import Job
from flash_pl.sweep.progress import Outcome, SweepProgress

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
        progress.expect(missing)
        outcomes = Processes(workers, progress.on_start, progress.on_end, progress.on_wait).run(missing)
    failed += [outcome.job for outcome in outcomes if outcome.result is None]
    return [job for job in jobs if job not in failed], failed


class Processes:
    """Trains jobs in child processes.

    A signal to stop is passed on to all children; each saves its state and ends. A job whose directory another process
    is using comes after the others. If it is still in use then, it counts as failed.

    Args:
        workers: number of processes at the same time.
        on_start: called when a job has started.
        on_end: called when a job has ended.
        on_wait: called again and again while jobs are running.
    """

    def __init__(
        self,
        workers: int,
        on_start: Callable[[Job], None],
        on_end: Callable[[Outcome], None],
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.workers, self.on_start, self.on_end, self.on_wait = workers, on_start, on_end, on_wait
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
                    self.on_wait()
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
