"""What a run shows while it trains: a bar in a terminal or a notebook, lines everywhere else."""

import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from lightning.fabric.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flash_pl.callbacks.base import Callback
from flash_pl.loops import FederatedLoop

METRICS = ("val_acc", "val_loss", "density")


def progress_display(metrics: Sequence[str] = METRICS) -> Callback:
    """Return a ``ProgressBar`` where one can be drawn, else ``ProgressLines``."""
    console = Console(file=sys.stderr)
    return ProgressBar(metrics) if console.is_jupyter or console.file.isatty() else ProgressLines(metrics)


class ProgressBar(Callback):
    """Shows the rounds done, some metrics and the time left: in a terminal on stderr, and in a notebook.

    Elsewhere it shows nothing; ``ProgressLines`` is for log files.

    Args:
        metrics: which metrics to show, by their columns in metrics.csv. A metric that a round does not have keeps its
            last value.
        console: where to draw the bar.

    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), callbacks=[ProgressBar(metrics=["val_acc", "bytes_up_total"])])
    """

    def __init__(self, metrics: Sequence[str] = METRICS, console: Console | None = None) -> None:
        self.metrics = metrics
        self.console = console or Console(file=sys.stderr)
        # A run may be aborted before it has started, if another callback fails.
        self.bar = Progress(console=self.console, disable=True)
        self.cell: NotebookCell | None = None

    @rank_zero_only
    def on_run_start(self, loop: FederatedLoop) -> None:
        in_terminal = self.console.file.isatty() and not self.console.is_jupyter
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, console=self.console, disable=not in_terminal, transient=True)
        self.task = self.bar.add_task("rounds", total=loop.plan.rounds, completed=loop.round)
        self.last_values: dict[str, float] = {}
        self.cell = NotebookCell(self.bar) if self.console.is_jupyter else None
        self.bar.start()

    @rank_zero_only
    def on_first_stage_client_end(self, loop: FederatedLoop, done: int, total: int) -> None:
        self._update(description=f"stage 1: client {done} of {total}")

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, Any]) -> None:
        self.last_values |= {name: row[name] for name in self.metrics if name in row}
        self._update(completed=loop.round, description=_values(self.last_values) or "rounds")

    @rank_zero_only
    def on_run_end(self, loop: FederatedLoop) -> None:
        self._stop()

    @rank_zero_only
    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        self._stop()

    def _update(self, **state: Any) -> None:
        self.bar.update(self.task, **state)
        if self.cell is not None:
            self.cell.draw()

    def _stop(self) -> None:
        if not self.bar.disable:  # older versions of rich print an empty line even if the bar is disabled
            self.bar.stop()
        if self.cell is not None:
            self.cell.draw(at_once=True)


class NotebookCell:
    """The bar in the output of a notebook's cell. rich itself draws there only with ipywidgets.

    Args:
        bar: is drawn again by ``draw``, at most five times a second.
    """

    def __init__(self, bar: Progress) -> None:
        from IPython.display import display  # a notebook has it, an installation need not

        self.bar, self._drawn = bar, time.monotonic()
        self._handle = display(bar, display_id=True)

    def draw(self, at_once: bool = False) -> None:
        """Draw the bar, unless it was drawn just now."""
        if at_once or time.monotonic() - self._drawn >= 0.2:
            self._drawn = time.monotonic()
            self._handle.update(self.bar)


class ProgressLines(Callback):
    """Writes a line about a round to stderr, for log files: the rounds done, seconds a round, time left, some metrics.

    The first and the last round have a line, and in between there is at most one every ``every`` seconds, so that a run
    of thousands of fast rounds leaves a short log. Seconds a round are a mean over the rounds of this process; they and
    the time left include everything that happens between rounds, and not stage 1.

    Args:
        metrics: which metrics to show; a round's line shows those that the round has.
        every: seconds between two lines.
        file: where to write; None takes stderr.

    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), callbacks=[ProgressLines(every=60)], enable_progress_bar=False)
    """

    def __init__(self, metrics: Sequence[str] = METRICS, every: float = 10.0, file: TextIO | None = None) -> None:
        self.metrics, self.every, self.file = metrics, every, file
        self._waiting = ""  # the line of a round that was not written
        self._written = 0.0

    @rank_zero_only
    def on_run_start(self, loop: FederatedLoop) -> None:
        self._start(loop)
        self._waiting = ""
        self._written = -self.every + time.monotonic()  # the next line is written

    def _start(self, loop: FederatedLoop) -> None:
        self._started, self._before = time.monotonic(), loop.round

    @rank_zero_only
    def on_first_stage_client_end(self, loop: FederatedLoop, done: int, total: int) -> None:
        self._write_if_due(f"stage 1: client {done} of {total}", done == total)

    @rank_zero_only
    def on_first_mask(self, loop: FederatedLoop) -> None:
        self._start(loop)

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, Any]) -> None:
        rounds = loop.round - self._before
        seconds = (time.monotonic() - self._started) / rounds
        pace = f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"
        parts = [f"round {loop.round} of {loop.plan.rounds}", f"{pace} a round"]
        if not loop.done:
            parts.append(f"{duration(seconds * (loop.plan.rounds - loop.round))} left")
        values = _values({name: row[name] for name in self.metrics if name in row})
        self._write_if_due("  ".join([*parts, *([values] if values else [])]), rounds == 1 or loop.done)

    @rank_zero_only
    def on_run_end(self, loop: FederatedLoop) -> None:
        self._write_waiting()

    @rank_zero_only
    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        self._write_waiting()

    def _write_if_due(self, line: str, due: bool) -> None:
        self._waiting = line
        if due or time.monotonic() - self._written >= self.every:
            self._write_waiting()

    def _write_waiting(self) -> None:
        if self._waiting:
            print(self._waiting, file=self.file or sys.stderr, flush=True)
            self._waiting, self._written = "", time.monotonic()


def _values(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())


def duration(seconds: float) -> str:
    """Seconds as a person would say them.

    >>> duration(4000), duration(75), duration(12.3)
    ('1 h 7 min', '1 min 15 s', '12.3 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))
