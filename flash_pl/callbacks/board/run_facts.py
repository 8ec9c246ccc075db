"""A config as TensorBoard can show it."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

COPIED = {"clients", "batch_size", "seed", "alpha", "density"}  # keys of the top level that components take over


def config_text(config: Mapping[str, Any]) -> str:
    """The config as a block of YAML in Markdown."""
    return f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(dict(config)))}```"


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """What may differ between experiments, as dotted keys and plain values; what is nested in lists becomes text.

    Left out are the machine's settings, the class of what has a name, and a component's copy of a top-level key; a
    value of its own stays.

    >>> scheduler = {"name": "nst", "class_path": "flash_pl.NST", "init_args": {"prune_rate": 0.2}}
    >>> hyperparameters({"seed": 1, "scheduler": scheduler, "data": {"init_args": {"seed": 1}}, "cost": {}})
    {'seed': 1, 'scheduler.name': 'nst', 'scheduler.prune_rate': 0.2}
    >>> hyperparameters({"seed": 1, "data": {"init_args": {"seed": 2}}})
    {'seed': 1, 'data.seed': 2}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("trainer", "cost"):
            continue
        leaves = _leaves(value, key) if isinstance(value, Mapping) else {key: value}
        found |= {name: leaf for name, leaf in leaves.items() if name == key or not _is_copy(name, leaf, config)}
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in found.items()}


def _is_copy(name: str, value: Any, config: Mapping[str, Any]) -> bool:
    last = name.rpartition(".")[2]
    return last in COPIED and last in config and config[last] == value


def _leaves(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == "class_path" and "name" in node:
            continue
        name = prefix if key == "init_args" else f"{prefix}.{key}"
        found |= _leaves(value, name) if isinstance(value, Mapping) else {name: value}
    return found
