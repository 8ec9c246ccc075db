"""The checkpoint from which a run goes on."""

import hashlib
import io
import os
import pickle
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from flash_pl.errors import ConfigError, RunError


class Stateful:
    """The base of all that a checkpoint asks for its state; as it stands there is none."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


def write_whole(path: Path, content: bytes) -> None:
    """Write beside ``path``, to the disk, then take its place: ``path`` is the old file or the whole new one.

    Raises:
        OSError: it cannot be written; ``path`` is left as it was, and nothing is left beside it.
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
    """Make a rename last; not every system can open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


SCHEMA = 7
DIGEST = 32  # bytes


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` beside ``path``, to the disk, then take its place: ``path`` is the old file or the whole new one.

    The file is what ``torch.save`` writes, a zip archive; its comment is the digest of all that comes before.

    Raises:
        RunError: it cannot be written, for instance because the disk is full; ``path`` is left as it was.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()[:-2]  # the archive ends with the length of its comment, which torch leaves empty
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content + struct.pack("<H", DIGEST) + _digest(content))
    except OSError as error:
        raise RunError(f"checkpoint {path}: cannot be written ({error.strerror or error})") from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; a hostile file runs no code.

    Raises:
        ConfigError: no such file, a torn or foreign file, or a schema of another version.
    """
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError("ckpt_path", str(path), f"a checkpoint file that can be read ({error.strerror})") from error
    content, tail = data[: -2 - DIGEST], data[-2 - DIGEST :]
    if tail != struct.pack("<H", DIGEST) + _digest(content):
        raise ConfigError("ckpt_path", str(path), "a whole checkpoint of flash_pl; this is torn, altered or foreign")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise ConfigError("ckpt_path", str(path), "a checkpoint of tensors and plain values only") from error
    schema = state.get("flash_pl", {}).get("schema") if isinstance(state, dict) else None
    if schema != SCHEMA:
        other = f"; this one has {schema}, it is of another version" if schema else ""
        raise ConfigError("ckpt_path", str(path), f"a checkpoint of flash_pl with schema {SCHEMA}{other}")
    return state


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


class CheckpointFolder:
    """``last.ckpt``, the one before it as ``previous.ckpt``, and ``best.ckpt``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.last, self.previous, self.best = (self.path / f"{name}.ckpt" for name in ("last", "previous", "best"))

    def save(self, state: dict[str, Any], best: bool = False) -> None:
        """Write ``last.ckpt``, and ``best.ckpt`` if it is the best so far.

        Raises:
            RunError: it cannot be written; the files there are left as they were.
        """
        if best:  # first: a kill in between must not leave a last one that believes in a best one
            write_checkpoint(self.best, state)
        newest = self.path / "new.ckpt"
        write_checkpoint(newest, state)
        if self.last.exists():
            os.replace(self.last, self.previous)
        os.replace(newest, self.last)

    def set_aside(self) -> str | None:
        """Rename what another run has left to ``earlier-....ckpt``, over what was set aside before.

        Returns:
            The new names as a pattern, None where there was nothing.
        """
        files = self.files()
        for file in files:
            os.replace(file, file.with_name(f"earlier-{file.name}"))
        return str(self.path / "earlier-*.ckpt") if files else None

    def files(self) -> list[Path]:
        """The checkpoints that are there, whole or not, the ones that have seen the most first."""
        return [file for file in (self.last, self.path / "new.ckpt", self.previous, self.best) if file.exists()]

    def newest(self) -> tuple[Path, dict[str, Any], list[str]] | None:
        """The newest checkpoint that can be used, with its content, and what is wrong with those that cannot.

        Returns:
            None if there is no file at all.

        Raises:
            ConfigError: there are files, but none can be used: it says what is wrong with the first.
        """
        usable, refused = [], []
        files = self.files()
        for file in files:
            try:
                usable.append((file, read_checkpoint(file)))
            except ConfigError as error:
                refused.append(error)
        if usable:
            # Of files of the same round the first one: last.ckpt has seen the most.
            return *max(usable, key=lambda entry: entry[1]["flash_pl"]["round"]), [str(error) for error in refused]
        if refused:
            why = f"{files[0].name} should be {refused[0].allowed}"
            raise ConfigError("ckpt_path", "last", f"a usable checkpoint in {self.path}; {why}")
        return None


LAST = "last"


def starting_point(ckpt_path: str | Path | None, folder: CheckpointFolder | None = None) -> dict[str, Any] | None:
    """The content of a checkpoint file.

    ``last`` is the newest usable one of the run's own ``folder``; torn files and those of another version are passed
    over with a word on stderr.

    Returns:
        None without a ``ckpt_path``, and where ``last`` finds no file.

    Raises:
        ConfigError: a file that cannot be used, ``last`` where none of the files can, or without a folder.
    """
    if ckpt_path != LAST:
        return None if ckpt_path is None else read_checkpoint(ckpt_path)
    if folder is None:
        raise ConfigError("ckpt_path", LAST, "a file, or last with a Checkpoint among the callbacks")
    newest = folder.newest()
    if newest is None:
        print(f"flash-pl: no checkpoint in {folder.path} yet", file=sys.stderr)
        return None
    path, state, refused = newest
    for error in refused:
        print(f"flash-pl: warning: {error}", file=sys.stderr)
    print(f"flash-pl: going on from {path}, round {state['flash_pl']['round']}", file=sys.stderr)
    return state
