"""Standard output and standard error of a command: a screen that is gone must not end a run."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from flash_pl.errors import in_one_line
from flash_pl.lines import wrapped

MESSAGE = "flash-pl: "  # how an error, a warning or a notice begins


class Stream:
    """A text stream whose ``write`` and ``flush`` never fail. For everything else it is the stream itself.

    In a terminal a message of flash_pl is broken between words. Characters that the stream cannot encode are written as
    escapes. After a first error, such as a full disk or a reader that has gone, all output is lost, also what other
    code writes to the same file descriptor.

    Args:
        stream: None if the command began with a closed file descriptor.

    Attributes:
        error: the error by which output was lost; None if there was none.

    >>> import io
    >>> file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    >>> length = Stream(file).write("caf\u00e9")
    >>> file.flush(), file.buffer.getvalue()
    (None, b'caf\\\\xe9')
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        if self.stream is None:
            self.error = self.error or OSError("it is closed")
        elif self.error is None:
            try:
                shown = self._broken(text) if text.startswith(MESSAGE) else text
                try:
                    self.stream.write(shown)
                except UnicodeEncodeError:
                    encoding = self.stream.encoding or "ascii"
                    self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
            except (OSError, ValueError) as error:  # ValueError: somebody has closed the object
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if self.stream is not None and self.error is None:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def isatty(self) -> bool:
        return self.stream is not None and not self.stream.closed and self.stream.isatty()

    def writable(self) -> bool:
        return True

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _broken(self, message: str) -> str:
        """The message in lines that fit the terminal, which otherwise breaks words and paths at its edge."""
        try:
            columns = os.get_terminal_size(self.fileno()).columns
        except (OSError, ValueError):  # no terminal
            return message
        line = message.rstrip("\n")
        return "\n  ".join(wrapped(line, columns - 2)) + message[len(line) :] if columns > 2 else message

    def _lose(self, error: OSError | ValueError) -> None:
        assert self.stream is not None
        self.error = error if isinstance(error, OSError) else OSError(str(error))
        # The stream still holds what it could not write, and Python writes it when it ends.
        with suppress(OSError, ValueError):
            descriptor = self.stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


@contextmanager
def safe_streams() -> Iterator[Stream]:
    """Make ``sys.stdout`` and ``sys.stderr`` a ``Stream`` each inside the block, and return that of standard output.

    An error of a thread, such as TensorBoard's on a full disk, is one line.
    """
    _fill_descriptors()
    excepthook, threading.excepthook = threading.excepthook, _show_error
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = own = Stream(out), Stream(err)
    try:
        yield own[0]
    finally:
        for stream in own:
            stream.flush()
        sys.stdout, sys.stderr = out, err
        threading.excepthook = excepthook


def _show_error(of_thread: Any) -> None:
    if of_thread.exc_value is not None:
        kind = type(of_thread.thread).__name__.lstrip("_")
        print(f"flash-pl: warning: {kind}: {in_one_line(of_thread.exc_value)}", file=sys.stderr)


def _fill_descriptors() -> None:
    """Open the null device in place of closed standard streams: otherwise the next file that is opened would get the
    number of one, and with it what other programs write there."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return
