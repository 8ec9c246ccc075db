"""One checkpoint file: atomic, checked to the last byte, loadable without running code, readable by Lightning."""

import hashlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from flash_pl.checkpoint.whole import write_whole
from flash_pl.errors import ConfigError, RunError

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
