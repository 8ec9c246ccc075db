"""Checkpoints: what has a state, how a checkpoint file is written and read, which files a folder has, where to resume.

``flash_pl.callbacks.Checkpoint`` decides when a run is saved.
"""

import hashlib
import io
import os
import struct
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch

from flash_pl.archive import load_archive
from flash_pl.atomic_write import write_atomically
from flash_pl.errors import ConfigError, RunError
from flash_pl.saved_state import COUNT, Keys, check_checkpoint, check_state

# The contract


class Stateful:
    """The base of every component whose state is saved in a checkpoint. Here the state is empty.

    >>> class Counter(Stateful):
    ...     count = 0
    ...
    ...     def state_dict(self):
    ...         return {"count": self.count}
    ...
    ...     def load_state_dict(self, state):
    ...         self.count = state["count"]
    >>> counter = Counter()
    >>> counter.load_state_dict({"count": 3})
    >>> counter.state_dict()
    {'count': 3}

    Attributes:
        saved: the kinds of the values in ``state_dict``, in the words of ``flash_pl.saved_state``. The sizes ``size``,
            ``maskable`` and ``trainable`` are those of the layout; ``tiers`` is 0 before the first mask.
    """

    saved: ClassVar[Any] = Keys({})

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""

    def compared_state(self) -> dict[str, Any]:
        """Return what must be equal in all processes of a run, which compare it every round.

        By default that is ``state_dict()``. A component with large tensors returns them here without copies.
        """
        return self.state_dict()


# A file

SCHEMA = 10  # the version of the keys under "flash_pl"
DIGEST = 32  # bytes


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to a checkpoint file; see ``write_atomically``.

    The file is a zip archive, as ``torch.save`` writes it. The archive's comment is a digest of all bytes before it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "last.ckpt"
    >>> write_checkpoint(path, {"flash_pl": {"schema": SCHEMA, "round": 3}})
    >>> read_checkpoint(path)["flash_pl"]["round"]
    3

    Raises:
        RunError: the file cannot be written, for instance because the disk is full; ``path`` is unchanged.
    """
    _write(path, _encoded(state))


def _encoded(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()[:-2]  # an archive ends with the length of its comment in two bytes; torch's has none
    return content + struct.pack("<H", DIGEST) + _digest(content)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"checkpoint {path}: cannot be written ({error.strerror or error})") from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, or of a run directory's (``checkpoint_file``), its tensors on the CPU.

    The file may be a stranger's: no code from it is run, and the content is about as large as the file (see
    ``load_archive``).

    Raises:
        ConfigError: the file is missing, incomplete, not a checkpoint of flash_pl, or of another version of it.
    """
    path = checkpoint_file(path)
    try:
        data = path.expanduser().read_bytes()
    except (OSError, RuntimeError, ValueError) as error:  # no such user after a tilde, a null byte
        reason = error.strerror if isinstance(error, OSError) else error
        problem = f"'{path}' cannot be read ({reason})"
        raise ConfigError("ckpt_path", problem, "give a checkpoint file") from error
    content, tail = data[: -2 - DIGEST], data[-2 - DIGEST :]
    if tail != struct.pack("<H", DIGEST) + _digest(content):
        cause = "it is cut off, altered or from another program"
        raise ConfigError("ckpt_path", f"'{path}' is not a complete checkpoint of flash_pl: {cause}")
    try:
        state = load_archive(io.BytesIO(data))
    except ValueError as error:
        problem = f"'{path}' holds other objects than tensors and plain values ({error})"
        hint = "flash_pl does not load them, since that could run code or fill the memory"
        raise ConfigError("ckpt_path", problem, hint) from error
    own = state.get("flash_pl") if isinstance(state, dict) else None
    schema = own.get("schema") if isinstance(own, dict) else None
    if not isinstance(schema, int):
        raise ConfigError("ckpt_path", f"'{path}' is not a checkpoint of flash_pl")
    if schema != SCHEMA:
        age = "an older" if schema < SCHEMA else "a newer"
        problem = f"'{path}' is a checkpoint of {age} version of flash_pl (schema {schema})"
        raise ConfigError("ckpt_path", problem, f"this version reads schema {SCHEMA} only")
    return state


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


# The checkpoints of a run


class CheckpointFolder:
    """The checkpoints of a run: ``last.ckpt``, the one before it as ``previous.ckpt``, and ``best.ckpt``.

    Args:
        path: the folder; it is created with the first checkpoint.

    >>> import tempfile
    >>> folder = CheckpointFolder(tempfile.mkdtemp())
    >>> for round in (1, 2, 3):
    ...     folder.save({"flash_pl": {"schema": SCHEMA, "round": round}}, best=round == 1)
    >>> {file.name: read_checkpoint(file)["flash_pl"]["round"] for file in folder.files()}
    {'last.ckpt': 3, 'previous.ckpt': 2, 'best.ckpt': 1}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.last, self.previous, self.best = (self.path / f"{name}.ckpt" for name in ("last", "previous", "best"))
        self.new = self.path / "new.ckpt"  # exists only between a write and its renames

    def save(self, state: dict[str, Any], best: bool = False) -> None:
        """Write ``last.ckpt``, and ``best.ckpt`` too if this is the best round so far.

        Raises:
            RunError: a file cannot be written, or could not be read again; no existing file is damaged.
        """
        content = _encoded(state)
        try:
            load_archive(io.BytesIO(content))  # the reader refuses some states, such as one tensor under 1,000 names
        except ValueError as error:
            raise RunError(f"checkpoint {self.last}: it could not be read again ({error})") from error
        if best:  # first: after a kill in between, last.ckpt must not name a best value that best.ckpt does not have
            _write(self.best, content)
        _write(self.new, content)
        if self.last.exists():
            os.replace(self.last, self.previous)
        os.replace(self.new, self.last)

    def files(self) -> list[Path]:
        """The checkpoint files that exist, complete or not; of two files with the same round the newer comes first."""
        return [file for file in (self.last, self.new, self.previous, self.best) if file.exists()]

    def newest(self) -> tuple[Path, dict[str, Any], list[str]] | None:
        """Find the usable checkpoint with the most rounds.

        Returns:
            The file, its content, and an error message for each file that is not usable; None if there are no files.

        Raises:
            ConfigError: there are files, but none is usable.
        """
        usable, errors = [], []
        for file in self.files():
            try:
                state = read_checkpoint(file)
                check_state(state["flash_pl"].get("round"), COUNT, "flash_pl.round")
                usable.append((file, state))
            except ConfigError as error:
                errors.append(error)
        if usable:
            # Of several files with the most rounds, max returns the first one.
            file, state = max(usable, key=lambda entry: entry[1]["flash_pl"]["round"])
            return file, state, [str(error) for error in errors]
        if errors:
            raise ConfigError("ckpt_path", f"last finds no usable checkpoint in {self.path}", errors[0].problem)
        return None

    def set_aside(self) -> str | None:
        """Rename the checkpoints of an earlier run to ``earlier-*.ckpt``; files that already have these names are lost.

        Returns:
            The new names as a pattern; None if there were no checkpoints.
        """
        files = self.files()
        for file in files:
            os.replace(file, file.with_name(f"earlier-{file.name}"))
        return str(self.path / "earlier-*.ckpt") if files else None


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint that a path stands for: of a run directory ``checkpoints/last.ckpt``, or ``best.ckpt`` without it.

    A path that is no folder is returned as it is; whoever reads it says whether it can be read.

    >>> str(checkpoint_file("runs/first/checkpoints/best.ckpt"))
    'runs/first/checkpoints/best.ckpt'

    Raises:
        ConfigError: a folder without such a file.
    """
    try:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            return Path(path)
    except (OSError, RuntimeError, ValueError):  # as in read_checkpoint
        return Path(path)
    files = CheckpointFolder(folder / "checkpoints")
    for file in (files.last, files.best):
        if file.is_file():
            return file
    problem = f"'{path}' is a folder without checkpoints/{files.last.name} and checkpoints/{files.best.name}"
    raise ConfigError("ckpt_path", problem, "give the directory of a run that has saved one, or a checkpoint file")


# The start of a run

LAST = "last"


def starting_point(ckpt_path: str | Path | None, folder: CheckpointFolder | None = None) -> dict[str, Any] | None:
    """Return the content of the checkpoint from which a run starts.

    Args:
        ckpt_path: a checkpoint file; or "last" for the newest usable one in ``folder``, with a warning on stderr for
            each file that is not usable; or None.
        folder: the checkpoints of the run itself.

    Returns:
        None if the run starts anew: without a ``ckpt_path``, or with "last" and no checkpoint yet.

    Raises:
        ConfigError: the file is not usable; with "last", there is no folder or none of its files is usable.
    """
    if ckpt_path is None:
        return None
    if ckpt_path != LAST:
        state = read_checkpoint(ckpt_path)
        check_checkpoint(state, ckpt_path)
        return state
    if folder is None:
        hint = "give a checkpoint file, or add a Checkpoint to the callbacks"
        raise ConfigError("ckpt_path", "last has no folder to look in", hint)
    newest = folder.newest()
    if newest is None:
        print(f"flash-pl: no checkpoint in {folder.path} yet", file=sys.stderr)
        return None
    path, state, errors = newest
    for error in errors:
        print(f"flash-pl: warning: {error}", file=sys.stderr)
    check_checkpoint(state, path)
    print(f"flash-pl: going on from {path}, round {state['flash_pl']['round']}", file=sys.stderr)
    return state
