"""The directory that a run writes."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from flash_pl.config.compose import label
from flash_pl.config.schema import Keys
from flash_pl.errors import ConfigError


class RunDir:
    """``config.yaml``, ``metrics.csv``, TensorBoard's events, ``checkpoints/*.ckpt`` and ``result.json``.

    Args:
        config: a resolved config. Its ``run_dir`` may hold ``{data}``, ``{model}``, ``{method}``, ``{density}`` and
            ``{seed}``. The default one gets a number rather than replace a finished run, unless the run goes on from a
            checkpoint; another is taken as it is.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        facts = {key: label(config, key) for key in ("data", "model")} | {"method": label(config, "scheduler")}
        facts |= {key: config[key] for key in ("density", "seed")}
        template = config["run_dir"]
        try:
            self.path = Path(template.format(**facts))
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError("run_dir", template, f"a path; it may hold {{{'}, {'.join(facts)}}}") from error
        # Where a run was written and continued from does not belong to what it computes.
        self.config = {key: value for key, value in config.items() if key not in ("run_dir", "ckpt_path")}
        first, number = self.path, 2
        while template == Keys.run_dir and config["ckpt_path"] is None and self.result.exists():
            self.path, number = first.with_name(f"{first.name}-{number}"), number + 1

    @property
    def result(self) -> Path:
        """The summary, which only a finished run has."""
        return self.path / "result.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of ``last.ckpt``."""
        return self.path / "checkpoints"

    def open(self, resumed: bool = False, room: int = 0) -> None:
        """Create the directory and write ``config.yaml``. What an earlier run left there and this one would not replace
        is removed; a ``resumed`` run goes on with the curves.

        Raises:
            ConfigError: it cannot be written, or its disk has not ``room`` bytes left.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if (free := shutil.disk_usage(self.path).free) < room:
                raise ConfigError("run_dir", str(self.path), f"{room >> 20} MiB of free disk; it has {free >> 20} MiB")
            old = [self.path / "errors.log", *self.path.glob("events.out.tfevents.*"), *self.checkpoints.glob("*.ckpt")]
            stale = [self.result, *([] if resumed else old)]
            for file in stale:
                file.unlink(missing_ok=True)
            text = "# Repeat this run: flash-pl fit THIS_FILE\n" + OmegaConf.to_yaml(OmegaConf.create(self.config))
            (self.path / "config.yaml").write_text(text, encoding="utf-8")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError("run_dir", str(self.path), f"a folder that can be written ({reason})") from error
