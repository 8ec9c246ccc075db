"""The directory that a run writes."""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from flash_pl.atomic_write import write_atomically
from flash_pl.checkpoint import CheckpointFolder, checkpoint_file
from flash_pl.config.composition import label
from flash_pl.config.keys import KEYS
from flash_pl.config.lock import DirectoryLock
from flash_pl.config.names import RENAMED_KEYS
from flash_pl.config.references import resolve_plain
from flash_pl.config.resume import experiment
from flash_pl.config.shipped import read_yaml
from flash_pl.config.signature import locate
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.yaml12 import dump

HEAD = "# Repeat this run: flash-pl fit THIS_FILE\n"
GIVEN = "# The values from the config file and the command line; scheduler=OTHER starts from these values alone.\n"


class RunDir:
    """``config.yaml``, ``metrics.csv``, TensorBoard's events, ``checkpoints/*.ckpt`` and ``result.json``.

    A run never replaces another one, and no other run may write the directory at the same time: ``claimed`` locks it.
    With the default ``run_dir`` a run gets the next free number. With ``ckpt_path`` it gets the directory of the run
    that it resumes: that of the checkpoint file, or for ``last`` the newest one.

    Args:
        config: a resolved config. Its ``run_dir`` may hold ``{data}``, ``{model}``, ``{scheduler}``, ``{density}`` and
            ``{seed}``; ``{density}`` is 1 for dense training, which has no target.
        to_repeat: the config for ``config.yaml``, see ``flash_pl.config.to_repeat``; None writes ``config``.
        restarted: torchrun has started this process in place of one that died; it resumes like ``ckpt_path=last``.

    Attributes:
        path: the directory; of the numbered directories the first one, until ``claimed`` chooses.

    Raises:
        ConfigError: ``run_dir`` is not a path.
    """

    def __init__(
        self, config: Mapping[str, Any], to_repeat: Mapping[str, Any] | None = None, restarted: bool = False
    ) -> None:
        self.path = _path_of(config["run_dir"], config)
        self.config, self.to_repeat = _without_paths(config), _without_paths(to_repeat or config)
        self._is_default = config["run_dir"] == KEYS["run_dir"].default
        self._checkpoint, self._restarted = "last" if restarted else config["ckpt_path"], restarted
        self._lock: DirectoryLock | None = None
        self._opened = False

    @property
    def result(self) -> Path:
        """The summary, which only a finished run has."""
        return self.path / "result.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of ``last.ckpt``."""
        return self.path / "checkpoints"

    @contextmanager
    def claimed(self, writes: bool = True) -> Iterator[None]:
        """Choose the directory and keep other runs out of it until the end of the block.

        The directory is made. If the block ends before ``open``, it is removed again.

        Args:
            writes: whether this process writes the directory; only rank 0 does. The others learn the ``path`` later.

        Raises:
            ConfigError: the directory has another run, is in use, or cannot be written.
        """
        with self._writing():
            if writes:
                self._lock = self._choose()
        try:
            yield
        finally:
            if self._lock is not None:
                self._lock.release(keep=self._opened)

    def check_space(self, bytes_needed: int) -> None:
        """Check that the disk has ``bytes_needed`` bytes left.

        Raises:
            ConfigError: it has less.
        """
        with self._writing():
            self._lock_late()
            free = shutil.disk_usage(self.path).free
        if free < bytes_needed:
            problem = f"{as_yaml(str(self.path))} is on a disk with {free >> 20} MiB free"
            raise ConfigError("run_dir", problem, f"{bytes_needed >> 20} MiB are needed for the checkpoints")

    def open(self, resumed: bool = False) -> None:
        """Write ``config.yaml``; a ``resumed`` run loses its ``result.json``.

        Raises:
            ConfigError: the directory cannot be written.
        """
        with self._writing():
            self._lock_late()
            write_atomically(self.path / "config.yaml", self.text().encode())
            self.checkpoints.mkdir(exist_ok=True)
            self._opened = True
            if resumed:
                self.result.unlink(missing_ok=True)

    def _lock_late(self) -> None:
        """Lock the directory where the launch has made a process rank 0 that did not expect it."""
        if self._lock is None:
            self._lock = self._locked(self.path, free=self._checkpoint is None)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors of the file system in the block name the directory."""
        try:
            yield
        except ConfigError:
            raise
        except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            hint = "give a directory that can be written"
            problem = f"{as_yaml(str(self.path))} cannot be written ({reason})"
            raise ConfigError("run_dir", problem, hint) from error

    def text(self) -> str:
        """The text of ``config.yaml``, with the section ``given`` at its end."""
        values = {key: value for key, value in self.to_repeat.items() if key != "given"}
        text = HEAD + dump(values)
        if "given" in self.to_repeat:
            text += GIVEN + dump({"given": self.to_repeat["given"]})
        return text

    def _run_of(self, checkpoint: Path) -> Path | None:
        """The directory of the run that wrote a checkpoint; None if the file lies elsewhere now."""
        folder = checkpoint.absolute().parent
        in_run = folder.name == self.checkpoints.name and os.path.exists(folder.parent / "config.yaml")
        return checkpoint.parent.parent if in_run else None

    def _choose(self) -> DirectoryLock:
        """Choose the directory, and return its lock."""
        last, own = self._checkpoint == "last", None
        if not last and self._checkpoint is not None:
            file = checkpoint_file(os.path.expanduser(self._checkpoint))
            if not os.path.exists(file):  # said before anything about the directory of the run
                problem = f"{as_yaml(str(file))} cannot be read ({os.strerror(errno.ENOENT)})"
                raise ConfigError("ckpt_path", problem, "give a checkpoint, the directory of a run, or last")
            own = self._run_of(file)
        if not self._is_default:
            resumes = last or (own is not None and own.resolve() == self.path.resolve())
            return self._locked(self.path, free=not resumes)
        if own is not None:
            return self._locked(own)
        newest = self._resumable() if last else None
        return newest or self._next_free()

    def _resumable(self) -> DirectoryLock | None:
        """The lock of the newest numbered directory that has a run, or None.

        After a restart by torchrun other runs may be going on beside the one that died, or have finished since.
        """
        for path in reversed(self._numbered()):
            if self._restarted and (path / "result.json").exists():
                continue
            lock = DirectoryLock(path)
            if holder := lock.acquire():
                if self._restarted:
                    continue
                raise self._in_use(path, holder, "wait for its end, or leave out ckpt_path for a new run")
            if self._is_taken(path):
                self.path = path
                return lock
            lock.release()
        return None

    def _next_free(self) -> DirectoryLock:
        """The lock of the first numbered directory behind all that have a run."""
        taken = [path for path in self._numbered() if self._is_taken(path)]
        for path in self._numbers(self._number_of(taken[-1]) + 1 if taken else 1):
            lock = DirectoryLock(path)
            if lock.acquire():
                continue
            if not self._is_taken(path):  # another process may have had it since the first look
                self.path = path
                return lock
            lock.release(keep=True)
        raise AssertionError("there are always more numbers")

    def _locked(self, path: Path, free: bool = False) -> DirectoryLock:
        """Lock the directory of the config or of a checkpoint; with ``free`` it must not have a run."""
        self.path, lock = path, DirectoryLock(path)
        if holder := lock.acquire():
            raise self._in_use(path, holder, "wait for its end, or give another directory")
        try:
            self._check(free)
        except (ConfigError, OSError):
            lock.release()
            raise
        return lock

    def _check(self, free: bool) -> None:
        """Check that the directory has no file that must not be overwritten."""
        file, path = self.path / "config.yaml", as_yaml(str(self.path))
        if free and self._is_taken(self.path):
            problem = f"{path} is the directory of another run"
            raise ConfigError("run_dir", problem, self._instead())
        if file.exists() and not file.read_bytes().startswith(HEAD.encode()):
            problem = f"{path} has a config.yaml of yours, which the run would overwrite"
            raise ConfigError("run_dir", problem, "give another directory")

    def _instead(self) -> str:
        """What to do if the directory has another run, which can go on only if it is of the same experiment."""
        file = self.path / "config.yaml"
        try:
            there = dict(experiment(resolve_plain(read_yaml(file), str(file))))
            here = dict(experiment(resolve_plain(self.to_repeat, str(file))))
        except (ConfigError, LookupError, AttributeError, TypeError):  # it has no config, or one of another program
            return "give a new directory"
        differing = [key for key in here | there if here.get(key) != there.get(key)]
        if not differing:
            return "give a new directory; ckpt_path=last goes on with the run in it"
        return f"give a new directory, since the run in it has another {', '.join(differing[:3])}"

    def _in_use(self, path: Path, holder: str, hint: str) -> ConfigError:
        return ConfigError("run_dir", f"{holder} is writing a run in {as_yaml(str(path))}", hint)

    def _numbers(self, first: int) -> Iterator[Path]:
        for number in count(first):
            yield self.path.with_name(f"{self.path.name}-{number}") if number > 1 else self.path

    def _numbered(self) -> list[Path]:
        """The numbered directories that exist, by number."""
        with suppress(FileNotFoundError):
            return sorted(filter(self._number_of, self.path.parent.iterdir()), key=self._number_of)
        return []

    def _number_of(self, path: Path) -> int:
        """The number of a directory; 0 if the directory has no number."""
        match = re.fullmatch(rf"{re.escape(self.path.name)}(?:-([2-9]|[1-9]\d{{1,8}}))?", path.name)
        return int(match[1] or 1) if match else 0

    def _is_taken(self, path: Path) -> bool:
        files = (path / "result.json", path / "metrics.csv")
        return any(file.exists() for file in files) or bool(CheckpointFolder(path / "checkpoints").files())


def _path_of(template: Any, config: Mapping[str, Any]) -> Path:
    """The path for the ``template`` of ``run_dir``."""
    facts: dict[str, Any] = {key: label(config, key) for key in ("data", "model", "scheduler")}
    scheduler = locate("scheduler.class_path", config["scheduler"]["class_path"])
    facts |= {"density": config["density"] if getattr(scheduler, "has_target", True) else 1, "seed": config["seed"]}
    try:
        if not template.strip():
            raise ValueError("an empty text is no path")
        return Path(template.format(**facts)).expanduser()
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, KeyError) and error.args[0] in RENAMED_KEYS:
            hint = f"use {{{RENAMED_KEYS[error.args[0]]}}}"
            raise ConfigError("run_dir", f"{as_yaml(template)}: {{{error.args[0]}}} was renamed", hint) from error
        hint = f"it may hold {{{'}, {'.join(facts)}}}"
        raise ConfigError("run_dir", f"{as_yaml(template)} is not a path", hint) from error


def _without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the paths of the run, on which the result of the run does not depend."""
    kept = {key: value for key, value in config.items() if key not in ("run_dir", "ckpt_path")}
    return kept | ({"given": _without_paths(kept["given"])} if "given" in kept else {})
