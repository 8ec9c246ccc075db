"""The key ``logger``: from names to components, and from components to loggers that write to the run directory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import Logger

from flash_pl.callbacks.arguments import check_installed
from flash_pl.config import shipped
from flash_pl.config.components import expand, unfold
from flash_pl.config.instantiate import instantiate
from flash_pl.config.names import one_of
from flash_pl.config.shipped import as_component
from flash_pl.errors import ConfigError, as_yaml, in_one_line

DEFAULT = "tensorboard"


def logger_nodes(value: Any) -> list[dict[str, Any]]:
    """The components of the loggers that a value of the key ``logger`` stands for, each in its full form.

    The value is a name, several names with commas, a component, or a list of names and components. ``true`` means the
    default logger. ``false`` and ``null`` mean no logger.

    Raises:
        ConfigError: another value, or a name that does not exist.

    >>> [node["name"] for node in logger_nodes("csv,mlflow")], logger_nodes(False)
    (['csv', 'mlflow'], [])
    >>> logger_nodes([{"name": "wandb", "project": "mine"}])[0]["init_args"]
    {'project': 'mine'}
    """
    if value is None or value is False:
        return []
    if value is True:
        value = DEFAULT
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    values = value if isinstance(value, list) else [value]
    return [_full(value, "logger" if len(values) == 1 else f"logger[{index}]") for index, value in enumerate(values)]


def _full(value: Any, key: str) -> dict[str, Any]:
    node = value if isinstance(value, dict) else as_component(value)
    if "class_path" not in node and not isinstance(node.get("name"), str):
        known = one_of(None, shipped.names("logger"))
        raise ConfigError(key, f"{as_yaml(value)} does not name a logger", f"{known}, or give a class_path")
    if "name" not in node:
        return expand(unfold(node, key), key)
    name = node["name"]
    return {"name": name} | expand(node, key, "logger")


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
