"""Trainings in processes of their own, several at a time."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flash_pl.errors import Interrupted
from flash_pl.ranks import StopSignals
from flash_pl.ranks.signals import SIGNALS
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
