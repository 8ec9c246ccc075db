"""The loggers of a run, from their components in the config; ``composition.py`` makes these from names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import Logger

from flash_pl.callbacks.arguments import check_installed
from flash_pl.config.instantiate import instantiate
from flash_pl.errors import ConfigError, in_one_line


def check_loggers(config: Mapping[str, Any]) -> None:
    """Check that the packages of the loggers with a name are installed.

    Raises:
        ConfigError: one is not.
    """
    for node in config["logger"]:
        if "name" in node:
            check_installed(node["name"], "logger")


def build_loggers(config: Mapping[str, Any], directory: Path) -> list[Logger]:
    """The loggers of a run; they write to its ``directory`` where the config and the environment say nothing else.

    MLflow's logger makes its database here, so this comes after all checks, on one process.

    Raises:
        ConfigError: a class of another kind, a missing package, an impossible argument.
    """
    folder = str(directory)
    fill: dict[str, Any] = {"save_dir": folder, "root_dir": folder, "name": directory.name, "run_name": directory.name}
    fill["project"] = os.environ.get("WANDB_PROJECT", "flash_pl")
    fill["experiment_name"] = os.environ.get("MLFLOW_EXPERIMENT_NAME", "flash_pl")
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        fill["tracking_uri"] = server
    else:
        fill["tracking_uri"] = f"sqlite:///{(directory / 'mlflow.db').absolute()}"
        fill["artifact_location"] = str((directory / "mlflow").absolute())
    return [_build(node, fill) for node in config["logger"]]


def _build(node: dict[str, Any], fill: Mapping[str, Any]) -> Logger:
    if "tracking_uri" in node["init_args"]:  # then the server decides where artifacts are
        fill = {name: value for name, value in fill.items() if name != "artifact_location"}
    name = node.get("name", node["class_path"].rpartition(".")[2])
    try:
        return instantiate("logger", node, Logger, fill=fill)
    except ImportError as error:
        reason = in_one_line(error)
        raise ConfigError("logger", f"{name} needs a package that is not installed ({reason})") from error
    except ConfigError:
        raise
    except Exception as error:  # of the logger's own library
        reason = in_one_line(error)
        raise ConfigError("logger", f"{name} cannot start ({reason})") from error
