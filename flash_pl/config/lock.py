"""The lock of a run directory: one running process at a time may write a run there."""

import errno
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
# The errors of file systems without locks, such as some network file systems.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# ``holder_of`` takes the lock for an instant. So a lock counts as held only after a few tries.
TRIES, PAUSE = 5, 0.05  # seconds

# The open files of the locks that this process has. The system releases a lock when no process has the file open any
# more. A forked process, such as a worker that reads data, must not keep it after the end of the run.
_open_files: set[int] = set()


def _close_in_child() -> None:
    for file in _open_files:
        os.close(file)
    _open_files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class DirectoryLock:
    """A lock on a directory, which the operating system releases when the process ends, however it ends.

    It is a ``flock`` on the file ``.lock`` in the directory. The file says which process has the lock, and is removed
    with it. A file that a killed process has left means nothing.

    Args:
        directory: it is made with the lock, and so are its parents.

    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp()) / "runs" / "a"
    >>> first, second = DirectoryLock(directory), DirectoryLock(directory)
    >>> first.acquire(), second.acquire() == f"process {os.getpid()} on {socket.gethostname()}"
    (None, True)
    >>> first.release()
    >>> directory.parent.exists(), second.acquire()
    (False, None)
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.file = directory, directory / NAME
        self._handle: int | None = None
        self._made: list[Path] = []  # the folders that were missing, the innermost first

    def acquire(self) -> str | None:
        """Take the lock, or return who has it, such as "process 123 on this-host".

        Raises:
            OSError: the directory cannot be made or written.
        """
        holder = "another process"
        for attempt in range(TRIES):
            try:
                self._make_folders()
                handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                self._remove_folders()
                if isinstance(error, FileNotFoundError) and attempt < TRIES - 1:
                    continue  # another process has just removed the folder, which it had made
                raise
            try:
                locked = _try_lock(handle, exclusive=True)
            except OSError as error:
                if not os.fstat(handle).st_size:  # nobody's, since a holder has written into it
                    self.file.unlink(missing_ok=True)
                os.close(handle)
                if error.errno not in NO_LOCKS:
                    self._remove_folders()
                    raise
                print(
                    f"flash-pl: warning: {self.directory} has no file locks, so a second run in it is not noticed",
                    file=sys.stderr,
                )
                return None
            if locked and self._names(handle):
                self._handle = handle
                _open_files.add(handle)
                try:
                    os.ftruncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                except OSError:
                    self.release()
                    raise
                return None
            # Not locked, or the file has just been removed by its last holder and others lock a new one.
            holder = _read(handle) or holder
            os.close(handle)
            if not locked:
                time.sleep(PAUSE)
        self._remove_folders()
        return holder

    def release(self, keep: bool = False) -> None:
        """Give the lock back; without ``keep`` remove the folders that were made for it, if they are empty.

        If another process comes at this very moment, its lock is in the folder, which therefore stays.
        """
        if self._handle is not None:
            with suppress(OSError):  # the directory may be gone, or on a disk that has failed
                self.file.unlink()
        if not keep:
            self._remove_folders()
        self._made = []
        # The file is closed last: whoever locks it after that finds that the directory does not have it any more.
        if self._handle in _open_files:
            _open_files.discard(self._handle)
            os.close(self._handle)
        self._handle = None

    def _make_folders(self) -> None:
        for folder in (*reversed(self.directory.parents), self.directory):
            with suppress(FileExistsError):
                if not folder.exists():
                    folder.mkdir()
                    self._made.insert(0, folder)

    def _remove_folders(self) -> None:
        """Remove the folders that were made, if they are empty."""
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()
        self._made = []

    def _names(self, handle: int) -> bool:
        """Whether the path of the lock is still that of the open file."""
        try:
            return os.path.samestat(os.stat(self.file), os.fstat(handle))
        except FileNotFoundError:
            return False


def holder_of(directory: Path) -> str | None:
    """Return who has the lock of a directory, None if nobody has it.

    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp())
    >>> lock = DirectoryLock(directory)
    >>> holder_of(directory), lock.acquire(), holder_of(directory) is None
    (None, None, False)
    >>> lock.release()
    >>> holder_of(directory)
    """
    try:
        handle = os.open(directory / NAME, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if _try_lock(handle, exclusive=False) else _read(handle) or "another process"
    except OSError:
        return None
    finally:
        os.close(handle)


def _try_lock(handle: int, exclusive: bool) -> bool:
    """Lock an open file until it is closed; return False if another process has a lock on it.

    Raises:
        OSError: with a number of ``NO_LOCKS``, if the file system or the operating system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(handle: int) -> str:
    """The line that the holder has written, "" if it has not yet."""
    return os.pread(handle, 200, 0).decode(errors="replace").strip() if hasattr(os, "pread") else ""
