"""The check of a config against its typed keys, and the conversion of values to their types."""

from collections.abc import Mapping
from dataclasses import field, make_dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import (
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from flash_pl.checks import LARGEST_SEED, check_choice, check_integers, check_numbers
from flash_pl.config.keys import KEYS, SECTIONS, RunOptions, check_names, keys_of, leaves, options_of
from flash_pl.config.references import times
from flash_pl.config.signature import describe, fits
from flash_pl.errors import ConfigError, as_yaml


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults to ``values``, convert them to the keys' types and resolve interpolations.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, an interpolation of a missing key.
    """
    check_names(values)
    # OmegaConf would convert text to numbers and booleans; only what a reference stands for is known later.
    _check_types({name: value for name, value in leaves(values) if "${" not in str(value) and value != "???"})
    config = _converted(values, resolve=True)
    _check_types(dict(leaves(config)))
    check_numbers("(0, 1]", density=config["density"])
    check_numbers("(0, 1e38]", lr=config["lr"], lr_end=config["lr_end"])  # the numbers of float32
    check_numbers("(0, inf)", alpha=config["alpha"])
    check_integers(cohort=config["cohort"], rounds=config["rounds"], local_epochs=config["local_epochs"])
    check_integers(batch_size=config["batch_size"], lr_horizon=config["lr_horizon"])
    check_choice("weights", "flops", density_of=config["density_of"])
    check_choice("sgd", "adam", optimizer=config["optimizer"])
    check_integers(optional=True, clients=config["clients"])
    check_integers(0, most=LARGEST_SEED, seed=config["seed"])
    try:
        RunOptions(**{name: config["trainer"][name] for name in options_of(SECTIONS["trainer"][-1])})
    except ConfigError as error:
        raise error.within("trainer") from error
    return config


def _check_types(values: Mapping[str, Any]) -> None:
    """Check values by their dotted names against the hints of their keys."""
    for name, value in values.items():
        if not fits(value, KEYS[name].hint):
            raise ConfigError(name, f"{as_yaml(value)} is not {describe(KEYS[name].hint)}")


def referring(values: Mapping[str, Any]) -> dict[str, Any]:
    """Like ``typed``, but with the interpolations as they are, and without a check of values."""
    return _converted(values, resolve=False)


# Lets a fragment refer to a share of another key: ${times:0.5,${density}}.
OmegaConf.register_resolver("times", times, replace=True)


def _structured(section: str = "") -> type:
    """A dataclass with the keys of a section, from which OmegaConf takes types and defaults."""
    fields: list[tuple[str, Any, Any]] = []
    for name in keys_of(section):
        key = KEYS[f"{section}.{name}".lstrip(".")]
        if not section and name in SECTIONS:
            nested = _structured(name)
            fields.append((name, nested, field(default_factory=nested)))
        elif isinstance(key.default, list | tuple):
            fields.append((name, Any, field(default_factory=partial(list, key.default))))
        else:
            fields.append((name, _omegaconf_type(key.hint), field(default=key.default)))
    return make_dataclass(section or "Config", fields)


def _omegaconf_type(hint: Any) -> Any:
    """The hint if OmegaConf can convert to it, else Any: then ``typed`` alone checks the value."""
    choices = set(get_args(hint)) - {NoneType} if get_origin(hint) in (Union, UnionType) else {hint}
    return hint if len(choices) == 1 and choices <= {int, float, bool, str} else Any


STRUCTURE = _structured()


def _converted(values: Mapping[str, Any], resolve: bool) -> dict[str, Any]:
    check_names(values)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(STRUCTURE), values)
        config = OmegaConf.to_container(merged, resolve=resolve, throw_on_missing=True)
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        problem = f"a reference ${{...}} has no fitting value ({reason})"
        raise ConfigError(str(error.full_key), problem) from error
    except MissingMandatoryValue as error:
        raise ConfigError(str(error.full_key), "??? stands for a missing value", "give a value") from error
    except ValidationError as error:
        name, value = str(error.full_key), getattr(error, "value", None)
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        raise ConfigError(name, f"{as_yaml(value)} is not {describe(KEYS[name].hint)}") from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(str(error.full_key or "config"), f"a value cannot be read ({reason})") from error
    return {str(name): value for name, value in dict(config).items()}  # type: ignore[arg-type]
