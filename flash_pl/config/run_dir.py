"""The directory that a run writes."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from flash_pl.checkpoint import CheckpointFolder
from flash_pl.config.compose import label
from flash_pl.config.names import RENAMED_KEYS
from flash_pl.config.schema import KEYS
from flash_pl.config.signature import locate
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.yaml12 import dump

HEAD = "# Repeat this run: flash-pl fit THIS_FILE\n"
GIVEN = "# The values from the config file and the command line; scheduler=OTHER starts from these values alone.\n"
# A path that YAML reads as it stands.
PLAIN = re.compile(r"[\w./-]*[^\W\d][\w./=+-]*/[\w./,=+-]*")


class RunDir:
    """``config.yaml``, ``metrics.csv``, TensorBoard's events, ``checkpoints/*.ckpt`` and ``result.json``.

    A run never replaces another one. With the default ``run_dir`` it gets the next free number. With ``ckpt_path`` it
    gets the directory of the run that it resumes: that of the checkpoint file, or for ``last`` the newest one.

    Args:
        config: a resolved config. Its ``run_dir`` may hold ``{data}``, ``{model}``, ``{scheduler}``, ``{density}`` and
            ``{seed}``; ``{density}`` is 1 for dense training, which has no target.
        to_repeat: the config for ``config.yaml``, see ``flash_pl.config.to_repeat``; None writes ``config``.
        restarted: torchrun has started this process in place of one that died; it resumes like ``ckpt_path=last``.

    Raises:
        ConfigError: ``run_dir`` is not a path, or is the directory of another run.
    """

    def __init__(
        self, config: Mapping[str, Any], to_repeat: Mapping[str, Any] | None = None, restarted: bool = False
    ) -> None:
        template, checkpoint = config["run_dir"], "last" if restarted else config["ckpt_path"]
        self.path = _path_of(template, config)
        self.config, self.to_repeat = _without_paths(config), _without_paths(to_repeat or config)
        own = None if checkpoint in (None, "last") else self._run_of(Path(checkpoint).expanduser())
        if template == KEYS["run_dir"].default:
            self.path = own or self._numbered(resumes=checkpoint == "last", restarted=restarted)
        elif self._is_taken(self.path) and checkpoint != "last" and own != self.path:
            problem = f"{as_yaml(str(self.path))} is the directory of another run"
            raise ConfigError("run_dir", problem, "give a new directory; ckpt_path=last goes on with the run in it")

    @property
    def result(self) -> Path:
        """The summary, which only a finished run has."""
        return self.path / "result.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of ``last.ckpt``."""
        return self.path / "checkpoints"

    def open(self, resumed: bool = False, bytes_needed: int = 0) -> None:
        """Create the directory and write ``config.yaml``; a ``resumed`` run loses its ``result.json``.

        Raises:
            ConfigError: the directory cannot be written, or its disk has less than ``bytes_needed`` bytes left.
        """
        file, path = self.path / "config.yaml", as_yaml(str(self.path))
        try:
            if file.exists() and not file.read_bytes().startswith(HEAD.encode()):
                problem = f"{path} has a config.yaml of yours, which the run would overwrite"
                raise ConfigError("run_dir", problem, "give another directory")
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if (free := shutil.disk_usage(self.path).free) < bytes_needed:
                problem = f"{path} is on a disk with {free >> 20} MiB free"
                raise ConfigError("run_dir", problem, f"{bytes_needed >> 20} MiB are needed for the checkpoints")
            file.write_text(self._yaml(), encoding="utf-8")
            if resumed:
                self.result.unlink(missing_ok=True)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            hint = "give a directory that can be written"
            raise ConfigError("run_dir", f"{path} cannot be written ({reason})", hint) from error

    def _yaml(self) -> str:
        """The text of ``config.yaml``, with the section ``given`` at its end."""
        values = {key: value for key, value in self.to_repeat.items() if key != "given"}
        text = HEAD + dump(values)
        if "given" in self.to_repeat:
            text += GIVEN + dump({"given": self.to_repeat["given"]})
        return text

    def _run_of(self, checkpoint: Path) -> Path | None:
        """The directory of the run that wrote a checkpoint; None if the file lies elsewhere now."""
        folder = checkpoint.absolute().parent
        in_run = folder.name == self.checkpoints.name and (folder.parent / "config.yaml").exists()
        return checkpoint.parent.parent if in_run else None

    def _numbered(self, resumes: bool, restarted: bool) -> Path:
        """The first free directory, or the newest that is taken."""
        before = self.path
        for path in self._numbers():
            if not self._is_taken(path):
                # The process that died may not have made its directory; then the newest one is a finished run's.
                finished = restarted and (before / "result.json").exists()
                return before if resumes and self._is_taken(before) and not finished else path
            before = path
        raise AssertionError("there are always more numbers")

    def _numbers(self) -> Iterator[Path]:
        yield self.path
        for number in count(2):
            yield self.path.with_name(f"{self.path.name}-{number}")

    def _is_taken(self, path: Path) -> bool:
        files = (path / "result.json", path / "metrics.csv")
        return any(file.exists() for file in files) or bool(CheckpointFolder(path / "checkpoints").files())


def _path_of(template: Any, config: Mapping[str, Any]) -> Path:
    """The path for the ``template`` of ``run_dir``."""
    facts: dict[str, Any] = {key: label(config, key) for key in ("data", "model", "scheduler")}
    scheduler = locate("scheduler.class_path", config["scheduler"]["class_path"])
    facts |= {"density": config["density"] if getattr(scheduler, "has_target", True) else 1, "seed": config["seed"]}
    try:
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


def as_argument(path: Path) -> str:
    """The path as ``run_dir=`` takes it on a command line: braces stand for names there, and values are YAML.

    >>> as_argument(Path("runs/a")), as_argument(Path("runs/{a} #1"))
    ('runs/a', '"runs/{{a}} #1"')
    """
    template = str(path).replace("{", "{{").replace("}", "}}")
    return template if PLAIN.fullmatch(template) else json.dumps(template, ensure_ascii=False)
