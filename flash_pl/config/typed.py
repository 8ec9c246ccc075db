"""Holds a config against the schema: unknown keys, wrong types, impossible values, interpolations."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from flash_pl.config.hints import describe, one_of
from flash_pl.config.schema import Keys
from flash_pl.errors import ConfigError


@dataclass(frozen=True)
class Key:
    """One typed key."""

    hint: Any
    default: Any
    help: str
    allowed: str
    valid: Callable[[Any], bool]


def _flatten(cls: type, prefix: str = "") -> Iterator[tuple[str, Key]]:
    hints = get_type_hints(cls)
    for item in fields(cls):
        name, hint, about = prefix + item.name, hints[item.name], item.metadata
        default = None if item.default is MISSING else item.default
        yield name, Key(hint, default, about["help"], about.get("allowed", ""), about.get("valid", lambda value: True))
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _flatten(hint, f"{name}.")


# Lets a fragment say a part of another key: ${times:0.5,${density}}.
OmegaConf.register_resolver("times", lambda factor, value: float(factor) * float(value), replace=True)

KEYS: dict[str, Key] = dict(_flatten(Keys))  # by dotted name, such as "trainer.eval_every"


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults to ``values``, convert to the keys' types and resolve interpolations.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, an interpolation of a missing key.
    """
    resolved = _converted(values, resolve=True)
    for name, value in _leaves(resolved):
        key = KEYS[name]
        if value is not None and not key.valid(value):
            raise ConfigError(name, value, key.allowed)
    return resolved


def referring(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the interpolations as they are, unchecked."""
    return _converted(values, resolve=False)


def resolve(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A complete config that was read from the file at ``path``, its interpolations resolved and nothing else.

    Raises:
        ConfigError: one of them leads nowhere.
    """
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError("config", path, f"references to keys that it has ({str(error).splitlines()[0]})") from error
    return {str(name): value for name, value in dict(resolved).items()}  # type: ignore[arg-type]


def _converted(values: Mapping[str, Any], resolve: bool) -> dict[str, Any]:
    for name, value in _leaves(values):
        _refuse_unknown(name, value)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Keys), values)
        config = OmegaConf.to_container(merged, resolve=resolve, throw_on_missing=True)
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            str(error.full_key), "${...}", f"a reference to a key with a fitting value ({reason})"
        ) from error
    except OmegaConfBaseException as error:
        name = str(error.full_key)
        name = name if name in KEYS else name.partition(".")[0]  # it may be inside a component
        raise ConfigError(name, getattr(error, "value", None), describe(KEYS[name].hint)) from error
    return {str(name): value for name, value in dict(config).items()}  # type: ignore[arg-type]


def _below(section: str) -> list[str]:
    """The keys of a section; those of the top level for ``""``."""
    return [name.rpartition(".")[2] for name in KEYS if name.rpartition(".")[0] == section]


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All (dotted name, value) of the sections; a component is one value."""
    if isinstance(node, Mapping) and (not name or _below(name) or name == "cost"):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node


def _refuse_unknown(name: str, value: Any) -> None:
    section, _, key = name.rpartition(".")
    if name not in KEYS:
        known = _below(section)
        raise ConfigError(name, value, one_of(key, known, "a known key") if known else "no keys here yet")
    if is_dataclass(KEYS[name].hint):
        raise ConfigError(name, value, f"a mapping with keys of {', '.join(_below(name))}")
