"""What the references in a config of somebody else stand for: only other keys, nothing of this machine.

OmegaConf resolves more than that: ``${oc.env:HOME}`` is an environment variable, and a few references to references
can stand for more text than the memory holds.
"""

import re
from collections.abc import Mapping
from typing import Any

from flash_pl.errors import ConfigError, as_yaml

DEEPEST = 50  # levels of values inside of values, and of references to references
LARGEST = 10_000  # values of a config, all references written out

Path = tuple[str | int, ...]

KEY = re.compile(r"\$\{([^${}:]+)\}")
SHARE = re.compile(r"\$\{\s*times\s*:([^,]*),(.*)\}", re.DOTALL)


def times(factor: Any, value: Any) -> float:
    """The resolver for a share of another key: ``${times:0.5,${density}}``."""
    return float(factor) * float(value)


def resolve_plain(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A complete config that was read from the file at ``path``, with its references to keys and ``times`` resolved.

    A value that is one such reference is resolved. Other resolvers and references inside of a longer text stay as text,
    so that nothing of this machine gets into the config. The section ``given`` is left out.

    Raises:
        ConfigError: a reference to a missing key or to itself, a factor that is not a number, or a config that is
            nested deeper than 50 levels or longer than 10,000 values.

    >>> config = {"density": 0.1, "tiers": ["${density}", "${times:0.5,${density}}"], "root": "${oc.env:HOME}/data"}
    >>> resolve_plain(config, "config.yaml")
    {'density': 0.1, 'tiers': [0.1, 0.05], 'root': '${oc.env:HOME}/data'}
    """
    values = {str(key): value for key, value in config.items() if key != "given"}
    resolved: dict[str, Any] = _Resolution(values, as_yaml(path)).value(values, ())
    return resolved


class _Resolution:
    """One pass over a config.

    Args:
        config: with references.
        file: its name in errors.
    """

    def __init__(self, config: Mapping[str, Any], file: str) -> None:
        self.config, self.file = config, file
        self.depth = self.values = 0

    def value(self, node: Any, path: Path) -> Any:
        """What the ``node`` at ``path`` stands for."""
        self.depth += 1
        self.values += 1
        if self.depth > DEEPEST:
            raise self._error(path, f"refers to itself, or is nested deeper than {DEEPEST} levels")
        if self.values > LARGEST:
            raise self._error(path, f"is one of more than {LARGEST} values, every reference written out")
        if isinstance(node, Mapping):
            node = {key: self.value(item, (*path, key)) for key, item in node.items()}
        elif isinstance(node, list | tuple):
            node = [self.value(item, (*path, index)) for index, item in enumerate(node)]
        elif isinstance(node, str):
            if key := KEY.fullmatch(node):
                node = self._key(key[1], path)
            elif share := SHARE.fullmatch(node):
                node = self._share(node, [self.value(part.strip(), path) for part in share.groups()], path)
        self.depth -= 1
        return node

    def _key(self, name: str, path: Path) -> Any:
        """The value of the key ``name``, such as ``data.shape[0]``, or ``.rounds`` for a neighbor of ``path``."""
        above = len(name) - len(name.lstrip("."))
        place: list[str | int] = [*path[:-above]] if above else []
        node: Any = self.config
        steps = re.findall(r"[^.\[\]]+", name)
        if not steps:
            raise self._error(path, f"refers to {as_yaml(name[:80])}, which is not a key")
        for step in [*place, *steps]:
            if isinstance(node, str):
                node = self.value(node, tuple(place))
            key = _key_of(node, str(step).strip())
            if key is None:
                raise self._error(path, f"refers to {as_yaml(name[:80])}, which is not in the config")
            node, place = node[key], [*place, key]
        return self.value(node, tuple(place))

    def _share(self, text: str, factors: list[Any], path: Path) -> Any:
        if any(isinstance(factor, str) and "${" in factor for factor in factors):  # of another resolver
            return text
        try:
            return times(*factors)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._error(path, f"{as_yaml(text[:80])} is not a product of two numbers") from error

    def _error(self, path: Path, problem: str) -> ConfigError:
        key = ".".join(str(step)[:80] for step in path)[:80]
        return ConfigError("config", f"{key} in {self.file} {problem}")


def _key_of(node: Any, step: str) -> str | int | None:
    """The key or index that a step of a reference means; None if ``node`` has none."""
    if isinstance(node, Mapping) and step in node:
        return step
    if not (step.isascii() and step.isdecimal() and len(step) < 10):
        return None
    index = int(step)
    has = index in node if isinstance(node, Mapping) else isinstance(node, list | tuple) and index < len(node)
    return index if has else None
