"""The directory that a run writes."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from flash_pl.checkpoint import CheckpointFolder
from flash_pl.config.compose import label
from flash_pl.config.schema import Keys
from flash_pl.errors import ConfigError

PLAIN = re.compile(r"[\w./-]*[^\W\d][\w./=+-]*/[\w./,=+-]*")  # that YAML reads as it stands
HEAD = "# Repeat this run: flash-pl fit THIS_FILE\n"


def as_argument(path: Path) -> str:
    """The path as ``run_dir=`` takes it on a command line: braces stand for names there, and values are YAML.

    >>> as_argument(Path("runs/a")), as_argument(Path("runs/{a} #1"))
    ('runs/a', '"runs/{{a}} #1"')
    """
    template = str(path).replace("{", "{{").replace("}", "}}")
    return template if PLAIN.fullmatch(template) else json.dumps(template, ensure_ascii=False)


class RunDir:
    """``config.yaml``, ``metrics.csv``, TensorBoard's events, ``checkpoints/*.ckpt`` and ``result.json``.

    A run never replaces another one. Without a ``run_dir`` of its own it gets the next free number, or with
    ``ckpt_path`` the directory of the run that goes on: that of the checkpoint file, or with ``last`` the newest.

    Args:
        config: a resolved config. Its ``run_dir`` may hold ``{data}``, ``{model}``, ``{scheduler}``, ``{density}`` and
            ``{seed}``.
        to_repeat: the same with references to other keys, for ``config.yaml``; None if there are none.
        restarted: another process was here before and has died; as with ``ckpt_path=last``.

    Raises:
        ConfigError: no path, or the directory of another run.
    """

    def __init__(
        self, config: Mapping[str, Any], to_repeat: Mapping[str, Any] | None = None, restarted: bool = False
    ) -> None:
        facts = {key: label(config, key) for key in ("data", "model")} | {"scheduler": label(config, "scheduler")}
        facts |= {key: config[key] for key in ("density", "seed")}
        template, checkpoint = config["run_dir"], "last" if restarted else config["ckpt_path"]
        try:
            self.path = Path(template.format(**facts)).expanduser()
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError("run_dir", template, f"a path; it may hold {{{'}, {'.join(facts)}}}") from error
        # Where a run was written and continued from does not belong to what it computes.
        self.config, self.to_repeat = (
            {key: value for key, value in one.items() if key not in ("run_dir", "ckpt_path")}
            for one in (config, to_repeat or config)
        )
        own = None if checkpoint in (None, "last") else self._run_of(Path(checkpoint).expanduser())
        if template == Keys.run_dir:
            self.path = own or self._numbered(goes_on=checkpoint == "last", restarted=restarted)
        elif self._is_taken(self.path) and checkpoint != "last" and own != self.path:
            allowed = "a folder without a run; ckpt_path=last goes on with the one that is there"
            raise ConfigError("run_dir", str(self.path), allowed)

    @property
    def result(self) -> Path:
        """The summary, which only a finished run has."""
        return self.path / "result.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of ``last.ckpt``."""
        return self.path / "checkpoints"

    def open(self, resumed: bool = False, room: int = 0) -> None:
        """Create the directory and write ``config.yaml``; a ``resumed`` run is no finished one any more.

        Raises:
            ConfigError: it cannot be written, or its disk has not ``room`` bytes left.
        """
        file = self.path / "config.yaml"
        try:
            if file.exists() and not file.read_bytes().startswith(HEAD.encode()):
                raise ConfigError("run_dir", str(self.path), "a folder without a config.yaml of yours, to write one")
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if (free := shutil.disk_usage(self.path).free) < room:
                raise ConfigError("run_dir", str(self.path), f"{room >> 20} MiB of free disk; it has {free >> 20} MiB")
            file.write_text(HEAD + OmegaConf.to_yaml(OmegaConf.create(self.to_repeat)), encoding="utf-8")
            if resumed:
                self.result.unlink(missing_ok=True)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError("run_dir", str(self.path), f"a folder that can be written ({reason})") from error

    def _run_of(self, checkpoint: Path) -> Path | None:
        """The directory of the run that wrote a checkpoint; None if it lies elsewhere now."""
        folder = checkpoint.absolute().parent
        whole = folder.name == self.checkpoints.name and (folder.parent / "config.yaml").exists()
        return checkpoint.parent.parent if whole else None

    def _numbered(self, goes_on: bool, restarted: bool) -> Path:
        """The first free directory, or the newest that is taken."""
        before = self.path
        for path in self._numbers():
            if not self._is_taken(path):
                # torchrun may start again what had ended before it got a directory: a finished run is not that one.
                finished = restarted and (before / "result.json").exists()
                return before if goes_on and self._is_taken(before) and not finished else path
            before = path
        raise AssertionError("there are always more numbers")

    def _numbers(self) -> Iterator[Path]:
        yield self.path
        for number in count(2):
            yield self.path.with_name(f"{self.path.name}-{number}")

    def _is_taken(self, path: Path) -> bool:
        files = (path / "result.json", path / "metrics.csv")
        return any(file.exists() for file in files) or bool(CheckpointFolder(path / "checkpoints").files())


# What a resumed run may change: how long, on what machine, what is watched and where things are. The rest is the
# experiment. `name` and `method` only say which fragments a config came from.
FREE = {"rounds", "run_dir", "ckpt_path", "trainer"}
FREE_LEAVES = {"wire.verify"}
# Settings of the trainer that are the experiment all the same.
FIXED = {"precision", "channels_last", "backend", "compile", "gradient_clip_val", "gradient_clip_algorithm", "lr_delay"}


def saved_config(state: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The config in the content of the checkpoint at ``path``, to be composed.

    Raises:
        ConfigError: a trainer without a config wrote it.
    """
    saved = state["flash_pl"]["extra"].get("config")
    if saved is None:
        raise ConfigError("ckpt_path", str(path), "a checkpoint that flash-pl fit wrote, with its config")
    return saved


def refuse_other(config: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check that a run can go on from a checkpoint.

    Raises:
        ConfigError: ``config`` is another experiment than the ``saved`` one; it names every key that differs.
    """
    ours, theirs = dict(experiment(config)), dict(experiment(saved))
    differing = [key for key in (ours | theirs) if ours.get(key) != theirs.get(key)]
    if differing:
        values = [ours.get(key) for key in differing]
        was = ", ".join(f"{key}={theirs.get(key)!r}" for key in differing)
        value = values[0] if len(values) == 1 else values
        raise ConfigError(", ".join(differing), value, f"as in the checkpoint: {was}")


def experiment(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The dotted keys and values that make the experiment."""
    fixed = {key: value for key, value in config["trainer"].items() if key in FIXED}
    ours = str(config["data"].get("class_path")).startswith("flash_pl.")  # of another class we do not know
    free = FREE_LEAVES | ({"data.init_args.root"} if ours else set())
    for name, value in _leaves({key: value for key, value in config.items() if key not in FREE} | {"trainer": fixed}):
        if name not in free:
            yield name, value


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        if key != "name" or "class_path" not in node:
            yield from _leaves(value, f"{prefix}.{key}" if prefix else key)
