"""What the user has given, by the config file and the command line, and the check of its names."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from flash_pl.config import shipped
from flash_pl.config.components import overlay
from flash_pl.config.keys import check_names
from flash_pl.config.names import unknown_fragment
from flash_pl.config.shipped import as_component, read_dotlist
from flash_pl.errors import ConfigError, as_yaml

# The components of the top level, each with a folder of fragments. Those of OPTIONAL may be null, for none.
SECTIONS = (
    "data",
    "model",
    "scheduler",
    "budget",
    "aggregator",
    "server_optimizer",
    "round_average",
    "sampler",
    "fleet",
)
OPTIONAL = {"aggregator", "server_optimizer", "round_average", "fleet"}


def check_given(config: Mapping[str, Any], arguments: Sequence[str] = ()) -> None:
    """Check the names of keys, and of the fragments for the components of the top level.

    This is what can be said in no time. Keys inside of a component are the arguments of its class, and no class is
    imported here: ``compose`` checks them.

    >>> check_given({"scheduler": "jmwst"}, ["density=0.1", "scheduler.prune_rate=0.3"])
    >>> check_given({"scheduler": "jmwst"}, ["data=mnits"])
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: data: 'mnits' is not a known name; did you mean mnist?

    Raises:
        ConfigError: a name that does not exist.
    """
    file, line = _normal(config), _normal(read_dotlist(arguments))
    for section in SECTIONS:
        refined, given = file.get(section) or {}, line.get(section) or {}
        component = given if "class_path" in given else refined | given
        if "name" in component and component["name"] not in shipped.names(section):
            raise unknown_fragment(section, component["name"], section, shipped.names(section))


def given_layer(config: Mapping[str, Any], arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The layer to compose, and the values in it that the user has set.

    For a config that a user wrote both are the same. The config.yaml of a run is complete: it also holds the defaults
    of its scheduler, for the model and the aggregator too. If the arguments name another scheduler, only the section
    ``given`` of such a config is used, so that the defaults of the new scheduler apply.
    """
    file, line = _normal(config), _normal(read_dotlist(arguments))
    given = file.pop("given", file)
    if not isinstance(given, dict):
        raise ConfigError("given", f"{as_yaml(given)} is not a mapping of keys to values")
    given = _normal(given)
    if not _names_another_scheduler(line, file):
        return overlay(file, line), overlay(given, line)
    if "scheduler" in file:
        given["scheduler"] = file["scheduler"]  # a new name replaces it; a new class keeps the arguments that it takes
    layer = overlay(given, line)
    return layer, layer


def _names_another_scheduler(line: Mapping[str, Any], file: Mapping[str, Any]) -> bool:
    new, old = line.get("scheduler", {}), file.get("scheduler", {})
    return any(new[key] != old.get(key) for key in ("name", "class_path") if key in new)


def _normal(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a layer in which every component of the top level is a mapping; only optional ones may be None."""
    copy = deepcopy(dict(layer))
    check_names({key: value for key, value in copy.items() if key != "given"})
    for section in SECTIONS:
        if section in copy and not isinstance(copy[section], dict):
            name = copy.pop(section)
            if name is not None:
                copy[section] = as_component(name)
            elif section in OPTIONAL:
                copy[section] = None
    return copy
