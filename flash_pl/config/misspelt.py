"""Misspelt names and values of a wrong type or out of range in components, found in the source of their classes.

No class is imported, and so no torch. ``instantiate`` checks more, with the imported classes; it alone checks classes
of other packages.
"""

from collections.abc import Mapping
from typing import Any

from flash_pl.config import shipped
from flash_pl.config.components import MASK_KEYS, is_component
from flash_pl.config.given import SECTIONS
from flash_pl.config.init_args import InitArg, ancestors_of, closed_init_args
from flash_pl.config.names import unknown_fragment, unknown_key
from flash_pl.config.signature import check_defined, describe, fits
from flash_pl.errors import ConfigError, as_yaml

OF_COMPONENT = {"name", "class_path", "init_args"}


def check_components(config: Mapping[str, Any]) -> None:
    """Check all components of a config: classes of flash_pl, their init args, types, ranges, fragments.

    Args:
        config: with every component in its full form; references may still be there.

    Raises:
        ConfigError: a name that does not exist, or a value of the wrong type or out of range.

    >>> check_components({"sampler": {"class_path": "flash_pl.server.UniformSampler", "init_args": {"sed": 1}}})
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: sampler.sed: there is no such key; nothing can be set here
    """
    for section in SECTIONS:
        node = config.get(section)
        if section == "model" and isinstance(node, dict):
            node = {name: value for name, value in node.items() if name not in MASK_KEYS}
        # A dataset may have any class: what it does not take is an argument of PartitionedDataset.
        divided = section == "data" and "PartitionedData" not in ancestors_of(str((node or {}).get("class_path")))
        _check(section, node, open_to_others=divided)
    for section in ("callbacks", "logger"):
        nodes = config.get(section) or []
        for index, node in enumerate(nodes):
            _check(f"{section}[{index}]" if section == "callbacks" or len(nodes) > 1 else section, node)


def _check(key: str, node: Any, open_to_others: bool = False) -> None:
    """Check a value of the config and all components in it."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            _check(f"{key}[{index}]", item)
    if not (is_component(node) and isinstance(node.get("class_path"), str)):
        return
    for name in node.keys() - OF_COMPONENT:
        raise unknown_key(f"{key}.{name}", ["class_path", "init_args"])
    class_path, init_args = node["class_path"], node.get("init_args") or {}
    check_defined(f"{key}.class_path", class_path)
    known = closed_init_args(class_path)
    for name, value in init_args.items():
        here = f"{key}.{name}"
        if known is not None and name not in known and not open_to_others:
            raise unknown_key(here, [*known, *(MASK_KEYS if key == "model" else ())])
        # What a reference or ??? stands for is known to OmegaConf.
        if known is not None and name in known and "${" not in str(value) and value != "???":
            _check_value(here, name, value, known[name])
        _check(here, value)


def _check_value(key: str, name: str, value: Any, takes: InitArg) -> None:
    """Check a value without references: a word that is no fragment's name, since it was not replaced; types; ranges."""
    if isinstance(value, str) and takes.is_component and name in shipped.folders():
        raise unknown_fragment(key, value, name, shipped.names(name))
    if not fits(value, takes.hint):
        raise ConfigError(key, f"{as_yaml(value)} is not {describe(takes.hint)}")
    if takes.range is not None and not isinstance(value, list | dict):  # a list has a value for each of several
        takes.range.check(**{key: value})
