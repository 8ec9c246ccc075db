"""What a command prints must not end it: the terminal may be closed, or the reader of a pipe gone."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class LastingStream:
    """A text stream that drops what it cannot write any more.

    After the first error its file descriptor leads to nowhere, so that the interpreter's flush at the exit works too.

    >>> import io
    >>> class Closed(io.StringIO):
    ...     def write(self, text):
    ...         raise BrokenPipeError
    >>> print("nobody reads this", file=LastingStream(Closed()))
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        with suppress(OSError, ValueError):  # a stream without a descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Make stdout and stderr ``LastingStream`` in the block.

    >>> with lasting_output():
    ...     print(type(sys.stdout).__name__)
    LastingStream
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = LastingStream(sys.stdout), LastingStream(sys.stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
