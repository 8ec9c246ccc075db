"""What a run shows while it trains: a bar in a terminal or a notebook, lines everywhere else."""

import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, TextIO

from lightning.fabric.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from flash_pl.callbacks.base import Callback
from flash_pl.loops import FederatedLoop
from flash_pl.units import duration, metric, rough

METRICS = ("val_acc", "val_loss", "density")
SHARES = ("val_acc",)
SHORTEST_BAR = 8  # characters


def progress_display(metrics: Sequence[str] = METRICS, shares: Collection[str] = SHARES) -> Callback:
    """Return a ``ProgressBar`` where one can be drawn, else ``ProgressLines``."""
    console = Console(file=sys.stderr)
    in_place = console.is_jupyter or console.file.isatty()
    return ProgressBar(metrics, shares=shares) if in_place else ProgressLines(metrics, shares=shares)


class Pace:
    """How far a run is, and how fast: the mean over the rounds of this process, with all that is between rounds.

    >>> pace = Pace(done=10, total=40)
    >>> pace.end_round(11)
    >>> pace.parts({"val_acc": "84.2 %"})[0]
    'round 11/40'
    """

    def __init__(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.restart()

    def restart(self) -> None:
        """Forget the time until now, which was that of stage 1."""
        self._started, self._before, self._ended = time.monotonic(), self.done, time.monotonic()

    def end_round(self, done: int) -> None:
        """``done`` rounds are over."""
        self.done, self._ended = done, time.monotonic()

    @property
    def seconds(self) -> float | None:
        """Seconds a round; None before the first."""
        rounds = self.done - self._before
        return (self._ended - self._started) / rounds if rounds else None

    def parts(self, metrics: Mapping[str, str], ended: bool = False) -> list[str]:
        """What to show, the most important part first: round, time left, metrics, seconds a round, time so far."""
        parts, now = [f"round {self.done}/{self.total}"], time.monotonic()
        if self.seconds is not None and not ended and self.done < self.total:
            left = self.seconds * (self.total - self.done) - (now - self._ended)
            parts.append(f"{rough(max(left, 0.0))} left")
        parts += [f"{name} {text}" for name, text in metrics.items()]
        if self.seconds is not None:
            parts += [f"{duration(self.seconds)} a round", f"{rough(now - self._started)} so far"]
        return parts


def fitted(parts: Sequence[str], width: int | None) -> str:
    """The parts in one line, without the last ones where they do not fit into ``width`` characters; None is no limit.

    >>> fitted(["round 3/5", "2 s left", "val_acc 21.4 %"], 24)
    'round 3/5  2 s left'
    """
    line = parts[0]
    for part in parts[1:]:
        if width is not None and len(line) + 2 + len(part) > width:
            break
        line += f"  {part}"
    return line if width is None else line[: max(width, 1)]


class HasParts(Protocol):
    """Something that ``Facts`` and ``BarWithRoom`` can show."""

    console: Console

    def parts(self) -> list[str]:
        """The parts of the text, the most important one first."""


class Facts(ProgressColumn):
    """The text before the bar, as much of it as fits; the time left runs between rounds."""

    def __init__(self, of: HasParts) -> None:
        super().__init__(Column(no_wrap=True))
        self._of = of

    def render(self, task: Task) -> Text:
        """The text in this moment."""
        return Text(fitted(self._of.parts(), self._of.console.width - 1))


class BarWithRoom(BarColumn):
    """A bar in the room that the text leaves, and none if that is short."""

    def __init__(self, of: HasParts) -> None:
        # The default color of the rounds to come is nearly black, which on white is more than that of those done.
        super().__init__(bar_width=None, style="bright_black")
        self._of = of

    def __call__(self, task: Task) -> Any:
        room = self._of.console.width - 2 - len(fitted(self._of.parts(), self._of.console.width - 1))
        self.bar_width = min(room, 40)
        return self.render(task) if room >= SHORTEST_BAR else Text("")


class ProgressBar(Callback):
    """Shows the rounds done, the time left and some metrics: in a terminal on stderr, and in a notebook.

    A terminal without room for everything keeps the round, the time left and the first metrics. Elsewhere the bar shows
    nothing; ``ProgressLines`` is for log files.

    Args:
        metrics: which metrics to show, by their columns in metrics.csv, the most important one first. A metric that a
            round does not have keeps its last value.
        console: where to draw the bar.
        shares: the metrics to write in percent.

    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), callbacks=[ProgressBar(metrics=["val_acc", "bytes_up_total"])])
    """

    def __init__(
        self, metrics: Sequence[str] = METRICS, console: Console | None = None, shares: Collection[str] = SHARES
    ) -> None:
        self.metrics, self.shares = metrics, shares
        self.console = console or Console(file=sys.stderr)
        # A run may be aborted before it has started, if another callback fails.
        self.bar = Progress(console=self.console, disable=True)
        self.cell: NotebookCell | None = None

    @rank_zero_only
    def on_run_start(self, loop: FederatedLoop) -> None:
        in_terminal = self.console.file.isatty() and not self.console.is_jupyter
        self.pace, self.stage, self.values = Pace(loop.round, loop.plan.rounds), "", dict[str, str]()
        self.bar = Progress(
            Facts(self), BarWithRoom(self), console=self.console, disable=not in_terminal, transient=True
        )
        self.task = self.bar.add_task("rounds", total=loop.plan.rounds, completed=loop.round)
        self.cell = NotebookCell(self.bar) if self.console.is_jupyter else None
        self.bar.start()

    @rank_zero_only
    def on_first_stage_client_end(self, loop: FederatedLoop, done: int, total: int) -> None:
        self.stage = f"stage 1: client {done} of {total}"
        self._update()

    @rank_zero_only
    def on_first_mask(self, loop: FederatedLoop) -> None:
        self.stage = ""
        self.pace.restart()

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, Any]) -> None:
        self.pace.end_round(loop.round)
        self.values |= _values(row, self.metrics, self.shares)
        self._update(completed=loop.round)

    def parts(self) -> list[str]:
        """The parts of the bar's text, the most important one first."""
        shown = {name: self.values[name] for name in self.metrics if name in self.values}
        return [self.stage] if self.stage else self.pace.parts(shown)

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
    """Writes a line about a round to stderr, for log files: the rounds done, time left, some metrics, seconds a round.

    The first and the last round have a line, and in between there is at most one every ``every`` seconds, so that a run
    of thousands of fast rounds leaves a short log. Seconds a round are a mean over the rounds of this process; they and
    the time left include everything that happens between rounds, and not stage 1. If the environment variable COLUMNS
    is set, lines have at most that length.

    Args:
        metrics: which metrics to show, the most important one first; a round's line shows those that the round has.
        every: seconds between two lines.
        file: where to write; None takes stderr.
        shares: the metrics to write in percent.

    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), callbacks=[ProgressLines(every=60)], enable_progress_bar=False)
    """

    def __init__(
        self,
        metrics: Sequence[str] = METRICS,
        every: float = 10.0,
        file: TextIO | None = None,
        shares: Collection[str] = SHARES,
    ) -> None:
        self.metrics, self.every, self.file, self.shares = metrics, every, file, shares
        self._waiting = ""  # the line of a round that was not written
        self._written = 0.0

    @rank_zero_only
    def on_run_start(self, loop: FederatedLoop) -> None:
        self._pace = Pace(loop.round, loop.plan.rounds)
        self._first, self._waiting = True, ""
        self._written = -self.every + time.monotonic()  # the next line is written

    @rank_zero_only
    def on_first_stage_client_end(self, loop: FederatedLoop, done: int, total: int) -> None:
        self._write_if_due(f"stage 1: client {done} of {total}", done == total)

    @rank_zero_only
    def on_first_mask(self, loop: FederatedLoop) -> None:
        self._pace.restart()

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, Any]) -> None:
        self._pace.end_round(loop.round)
        parts = self._pace.parts(_values(row, self.metrics, self.shares), ended=loop.done)
        columns = os.environ.get("COLUMNS", "")
        self._write_if_due(fitted(parts, int(columns) if columns.isdecimal() else None), self._first or loop.done)
        self._first = False

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


def _values(row: Mapping[str, Any], metrics: Sequence[str], shares: Collection[str]) -> dict[str, str]:
    shown = {name: metric(row[name], name in shares) for name in metrics if name in row}
    if row.get("density") == 1:  # of a dense model, where it says nothing
        shown.pop("density", None)
        shown.pop("density_flops", None)
    return shown
