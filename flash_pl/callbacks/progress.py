"""A progress bar over the rounds."""

import sys
from collections.abc import Sequence
from typing import Any

from lightning.fabric.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flash_pl.callbacks.base import Callback
from flash_pl.loops import FederatedLoop


class ProgressBar(Callback):
    """Shows the rounds done, some metrics and the time left, on stderr; nothing if stderr is not a terminal.

    Args:
        metrics: which metrics to show, by their columns in metrics.csv. A metric that a round does not have keeps its
            last value.
        console: where to draw the bar.

    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), callbacks=[ProgressBar(metrics=["val_acc", "bytes_up_total"])])
    """

    def __init__(
        self, metrics: Sequence[str] = ("val_acc", "val_loss", "density"), console: Console | None = None
    ) -> None:
        self.metrics = metrics
        self.last_values: dict[str, float] = {}
        self.console = console or Console(file=sys.stderr)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, console=self.console, disable=not self.console.file.isatty(), transient=True)

    @rank_zero_only
    def on_run_start(self, loop: FederatedLoop) -> None:
        self.task = self.bar.add_task("rounds", total=loop.plan.rounds, completed=loop.round)
        self.bar.start()

    @rank_zero_only
    def on_first_stage_client_end(self, loop: FederatedLoop, done: int, total: int) -> None:
        self.bar.update(self.task, description=f"stage 1: client {done} of {total}")

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, Any]) -> None:
        self.last_values |= {name: row[name] for name in self.metrics if name in row}
        text = "  ".join(f"{name} {value:.3f}" for name, value in self.last_values.items())
        self.bar.update(self.task, completed=loop.round, description=text or "rounds")

    @rank_zero_only
    def on_run_end(self, loop: FederatedLoop) -> None:
        self._stop()

    @rank_zero_only
    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if not self.bar.disable:  # older versions of rich print an empty line even if the bar is disabled
            self.bar.stop()
