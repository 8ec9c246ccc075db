"""What a sweep shows while it runs."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from flash_pl.compare import title_of
from flash_pl.sweep.jobs import Job
from flash_pl.sweep.processes import Outcome


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
