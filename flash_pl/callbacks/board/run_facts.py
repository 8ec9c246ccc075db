"""A config as TensorBoard can show it."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf


def config_text(config: Mapping[str, Any]) -> str:
    """The config as a block of YAML in Markdown."""
    return f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(dict(config)))}```"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and plain values; what is nested in lists becomes text.

    >>> flat({"lr": 0.1, "scheduler": {"init_args": {"rate": 0.2}}})
    {'lr': 0.1, 'scheduler.rate': 0.2}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix and key != "init_args" else prefix or key
        if isinstance(value, Mapping):
            found |= flat(value, name)
        else:
            found[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
