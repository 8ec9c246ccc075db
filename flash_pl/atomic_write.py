"""Making folders, and writing a file in one step; without torch, since commands that need none write reports."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from flash_pl.errors import as_yaml


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        OSError: it cannot be made; a file that is in the way is named.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
        raise NotADirectoryError(errno.ENOTDIR, f"{as_yaml(str(file))} is not a folder", str(folder)) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that ``path`` is always the complete old file or the complete new one, whenever a kill comes.

    The content goes to a temporary file in the same folder and to the disk; then the file is renamed to ``path``.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "result.json"
    >>> write_atomically(path, b"{}")
    >>> path.read_bytes(), len(list(path.parent.iterdir()))
    (b'{}', 1)

    Raises:
        OSError: the file cannot be written; ``path`` is unchanged and the temporary file is removed.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Write a rename in ``folder`` to the disk, on systems that can open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
