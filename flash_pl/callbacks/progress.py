"""A progress bar over rounds."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flash_pl.errors import RunError
from flash_pl.loops import Failure, FederatedLoop


class ProgressBar:
    """Rounds done, some metrics and time left; silent when the output is no terminal.

    Args:
        metrics: their names, as in metrics.csv.
    """

    def __init__(
        self, metrics: Sequence[str] = ("val_acc", "val_loss", "density"), console: Console | None = None
    ) -> None:
        self.metrics = metrics
        self.shown: dict[str, float] = {}
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
        self.shown |= {name: row[name] for name in self.metrics if name in row}
        text = "  ".join(f"{name} {value:.3f}" for name, value in self.shown.items())
        self.bar.update(self.task, completed=loop.round, description=text or "rounds")

    @rank_zero_only
    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        self._stop()

    @rank_zero_only
    def on_run_end(self, loop: FederatedLoop) -> None:
        self._stop()

    def _stop(self) -> None:
        if not self.bar.disable:  # older versions of rich end an empty line all the same
            self.bar.stop()


class FaultLog:
    """Says on stderr which client was left out and why, and keeps tracebacks in ``directory/errors.log``.

    There is also that of a client, or of a method, whose fault ends the run.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / "errors.log"

    @rank_zero_only
    def on_client_error(self, loop: FederatedLoop, failure: Failure) -> None:
        print(f"flash-pl: warning: left out {failure}", file=sys.stderr)
        self._write(f"{failure}\n{failure.trace}\n")

    @rank_zero_only
    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        if isinstance(error, RunError) and error.trace:
            self._write(f"{error}\n{error.trace}\n")

    def _write(self, text: str) -> None:
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            print(f"flash-pl: warning: {self.path}: cannot be written ({error.strerror})", file=sys.stderr)
