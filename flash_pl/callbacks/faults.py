"""A record of what failed: clients that were left out, and what ended the run."""

import sys
from pathlib import Path

from lightning.fabric.utilities import rank_zero_only

from flash_pl.errors import RunError
from flash_pl.loops import Failure, FederatedLoop


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
