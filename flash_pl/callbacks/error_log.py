"""Warnings about clients that are left out, and a file with tracebacks."""

import sys
from pathlib import Path

from lightning.fabric.utilities import rank_zero_only

from flash_pl.callbacks.base import Callback
from flash_pl.errors import ClientError, RunError
from flash_pl.loops import Failure, FederatedLoop


class ErrorLog(Callback):
    """Prints a warning for each client that is left out, and appends tracebacks to ``directory/errors.log``.

    The file gets the tracebacks of clients that are left out, and of the client, scheduler or callback whose error ends
    the run. It is created with the first traceback.

    Args:
        directory: an existing folder.

    >>> import tempfile
    >>> from flash_pl.errors import ClientError
    >>> log = ErrorLog(tempfile.mkdtemp())
    >>> log.on_run_abort(loop=None, error=ClientError("client 3 in round 1: ValueError", "Traceback ..."))
    >>> print(log.path.read_text())
    client 3 in round 1: ValueError
    Traceback ...
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / "errors.log"

    @rank_zero_only
    def on_client_error(self, loop: FederatedLoop, failure: Failure) -> None:
        print(f"flash-pl: warning: left out {failure}", file=sys.stderr)
        self._append(f"{failure}\n{failure.trace}\n")

    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        # All ranks have the same error of a client. Any other one is known only where it happened.
        on_all_ranks = isinstance(error, ClientError) and getattr(rank_zero_only, "rank", 0) > 0
        if isinstance(error, RunError) and error.trace and not on_all_ranks:
            self._append(f"{error}\n{error.trace}\n")

    def _append(self, text: str) -> None:
        try:
            with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            print(f"flash-pl: warning: {self.path}: cannot be written ({error.strerror})", file=sys.stderr)
