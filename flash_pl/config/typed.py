"""Holds a config against the schema: unknown keys, wrong types, impossible values, interpolations."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

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
        name, hint = prefix + item.name, hints[item.name]
        default = None if item.default is MISSING else item.default
        about = item.metadata
        yield name, Key(hint, default, about["help"], about.get("allowed", ""), about.get("valid", lambda value: True))
        inner = {kind for kind in (hint, *get_args(hint), *(a for b in get_args(hint) for a in get_args(b)))}
        for kind in filter(is_dataclass, inner):
            yield from _flatten(kind, f"{name}.")


KEYS: dict[str, Key] = dict(_flatten(Keys))  # by dotted name, such as "trainer.eval_every"


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults to ``values``, convert to the keys' types and resolve interpolations.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, an interpolation of a missing key.
    """
    _refuse_unknown(values)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Keys), values)
        config = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(str(error.full_key), "${...}", f"a reference to another key ({reason})") from error
    except OmegaConfBaseException as error:
        key = str(error.full_key)
        raise ConfigError(key, getattr(error, "value", None), describe(_key_of(key).hint)) from error
    assert isinstance(config, dict)
    _refuse_impossible(config)
    return {str(key): value for key, value in config.items()}


def _key_of(dotted: str) -> Key:
    return KEYS[re.sub(r"\[\d+\]", "", dotted)]


def _refuse_unknown(node: Any, prefix: str = "", shown: str = "") -> None:
    known = [name.removeprefix(prefix) for name in KEYS if name.startswith(prefix) and "." not in name[len(prefix) :]]
    if not isinstance(node, Mapping):
        raise ConfigError(shown.rstrip("."), node, f"a mapping with keys of {', '.join(known)}")
    for name, value in node.items():
        if name not in known:
            raise ConfigError(f"{shown}{name}", value, f"a key, {one_of(name, known)}" if known else "no keys here yet")
        dotted = f"{prefix}{name}"
        if is_dataclass(KEYS[dotted].hint):
            _refuse_unknown(value, f"{dotted}.", f"{shown}{name}.")
        elif f"{dotted}.density" in KEYS and isinstance(value, list):
            for index, item in enumerate(value):
                _refuse_unknown(item, f"{dotted}.", f"{shown}{name}[{index}].")


def _refuse_impossible(node: Any, dotted: str = "") -> None:
    if isinstance(node, dict) and (not dotted or dotted.split(".")[0] in ("budget", "trainer")):
        for name, value in node.items():
            _refuse_impossible(value, f"{dotted}.{name}".lstrip("."))
    elif isinstance(node, list):
        for index, item in enumerate(node):
            _refuse_impossible(item, f"{dotted}[{index}]")
    elif node is not None and not isinstance(node, dict) and not _key_of(dotted).valid(node):
        raise ConfigError(dotted, node, _key_of(dotted).allowed)
