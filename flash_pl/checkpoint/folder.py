"""The checkpoints of one run."""

import os
from pathlib import Path
from typing import Any

from flash_pl.checkpoint.archive import read_checkpoint, write_checkpoint
from flash_pl.errors import ConfigError


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
