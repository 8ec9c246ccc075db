"""What a sweep shows: a line for each run that has ended, the rounds of the running ones, and the time left."""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from flash_pl.callbacks.progress import BarWithRoom, Facts
from flash_pl.compare import title_of
from flash_pl.lines import wrapped
from flash_pl.sweep.jobs import Job
from flash_pl.units import duration, metric, rough

LOOK = 1.0  # seconds between two looks at the files of the running jobs
EVERY = 60.0  # seconds between two lines about the running jobs in a log file
END = 4096  # bytes; the last two rows of metrics.csv are shorter, unless the module logs hundreds of metrics


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


class Remaining:
    """Estimates the time left of a sweep from the rounds that its jobs have trained since it started.

    >>> remaining = Remaining()
    >>> remaining.rounds = {"a": (0, 0, 10), "b": (0, 0, 10)}  # at the start, now, in all
    >>> remaining.see("a", 5)
    >>> remaining.seconds(elapsed=60.0)
    180.0
    """

    def __init__(self) -> None:
        self.rounds: dict[str, tuple[int, int, int]] = {}

    def see(self, name: str, done: int) -> None:
        """``done`` rounds of a job are over."""
        if name in self.rounds:
            first, _, total = self.rounds[name]
            self.rounds[name] = min(first, done), done, total

    def drop(self, name: str) -> None:
        """The job has no more rounds: its result is there, or it failed."""
        if name in self.rounds:
            first, done, _ = self.rounds[name]
            self.rounds[name] = first, done, done

    def seconds(self, elapsed: float) -> float | None:
        """The seconds left, ``elapsed`` seconds after the start; None before the first round."""
        trained = sum(done - first for first, done, _ in self.rounds.values())
        left = sum(total - done for _, done, total in self.rounds.values())
        return elapsed / trained * left if trained else None


class SweepProgress:
    """A line on stderr for every run that has ended. In a terminal, a bar with the time left of the sweep and the round
    of each running job; elsewhere a line with the same, now and then.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr)
        self.total, self.done, self.running = total, 0, dict[str, Job]()
        self.remaining, self._started = Remaining(), time.monotonic()
        self._looked = self._said = self._started
        in_terminal = self.console.file.isatty()
        columns = Facts(self), BarWithRoom(self)
        self.bar = Progress(*columns, console=self.console, disable=not in_terminal, transient=True)
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> "SweepProgress":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self.bar.disable:  # older versions of rich print an empty line at the end of a disabled bar
            self.bar.stop()

    def expect(self, jobs: Iterable[Job]) -> None:
        """The jobs will be trained; rounds that they have already do not count."""
        for job in jobs:
            done = rounds_done(job.directory)
            self.remaining.rounds[job.name] = done, done, job.config["rounds"]
        self._started = time.monotonic()

    def on_skip(self, job: Job, other_options: str) -> None:
        """The job has a finished run; ``other_options`` of the run differ from the job's, but not the experiment."""
        self._print(job, f"already there, with {other_options}" if other_options else "already there")

    def on_refuse(self, job: Job, error: Exception) -> None:
        """The directory of the job cannot be used."""
        self._print(job, f"error: {error}")

    def on_start(self, job: Job) -> None:
        """The job has started."""
        self.running[job.name] = job
        self._update()

    def on_wait(self) -> None:
        """Some time has passed."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        for name, job in self.running.items():
            self.remaining.see(name, rounds_done(job.directory))
        self._update()
        if self.bar.disable and self.running and now - self._said >= EVERY:
            self._say("  ".join(self.parts()))

    def on_end(self, outcome: Outcome) -> None:
        """The job has ended."""
        job = outcome.job
        del self.running[job.name]
        if outcome.result is None:
            self.remaining.drop(job.name)
            self._print(job, f"failed: {outcome.reason}; see {job.log}")
        else:
            self.remaining.see(job.name, outcome.result.get("rounds", 0))
            self.remaining.drop(job.name)
            monitor, mode = (job.config["trainer"].get(key) for key in ("monitor", "monitor_mode"))
            shown = metric(outcome.result.get("accuracy"), mode == "max")
            self._print(job, f"last {title_of(monitor)} {shown}, {duration(outcome.seconds)}")  # the table has a mean

    def parts(self) -> list[str]:
        """The parts of the bar's text, the most important one first."""
        parts = [f"{self.done} of {self.total} runs"]
        if (left := self.remaining.seconds(time.monotonic() - self._started)) is not None and self.done < self.total:
            parts.append(f"{rough(left)} left")
        rounds = [self.remaining.rounds.get(name, (0, 0, 0))[1:] for name in self.running]
        if rounds:
            parts.append(f"round {', '.join(f'{done}/{total}' for done, total in rounds)}")
        return [*parts, *self.running]

    def _print(self, job: Job, text: str) -> None:
        self.done += 1
        self._say(f"{self.done} of {self.total}  {job.name}  {' '.join(text.split())}")
        self._update()

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        if not self.bar.disable:  # a terminal would break it anywhere
            line = "\n  ".join(wrapped(line, self.console.width - 2))
        self.console.print(Text(line), soft_wrap=True)

    def _update(self) -> None:
        self.bar.update(self.task, completed=self.done)


def rounds_done(directory: Path) -> int:
    """Return the last round in metrics.csv; 0 before the first round.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> rounds_done(folder)
    0
    >>> length = (folder / "metrics.csv").write_bytes(b"round,val_acc\\r\\n1,0.5\\r\\n2,0.6\\r\\n3,0.")
    >>> rounds_done(folder)
    2
    """
    try:
        with open(directory / "metrics.csv", "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - END, 0))
            lines = file.read().split(b"\r\n")[:-1]  # the last line may be half written
    except OSError:
        return 0
    first = lines[-1].partition(b",")[0] if lines else b""
    return int(first) if first.isdigit() else 0
