"""From text to plain dictionaries: YAML files and ``key=value`` arguments."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flash_pl.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, interpolations unresolved; an empty file is an empty mapping.

    Raises:
        ConfigError: not readable, no YAML, or no mapping.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError("config", str(path), f"a readable YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError("config", str(path), "a YAML file with a mapping of keys to values")
    return {str(key): value for key, value in content.items()}


def named(name: object) -> dict[str, Any]:
    """The component that a word stands for: a fragment's name, or the path of a class.

    >>> named("jmwst"), named("my_file.MyMethod")
    ({'name': 'jmwst'}, {'class_path': 'my_file.MyMethod'})
    """
    return {"class_path": name} if isinstance(name, str) and "." in name else {"name": name}


def read_dotlist(arguments: Iterable[str]) -> dict[str, Any]:
    """``["data=mnist", "data.root=/x"]`` -> ``{"data": {"name": "mnist", "root": "/x"}}``, in whatever order they come.

    Values are YAML. A component that is both named and refined becomes a mapping with ``name``.

    Raises:
        ConfigError: an argument without ``=`` or with a value that is no YAML.
    """
    tree: dict[str, Any] = {}
    # Shorter keys first, so that a name never wipes out its refinements.
    for argument in sorted(arguments, key=lambda argument: argument.partition("=")[0].count(".")):
        dotted, equals, text = argument.partition("=")
        if not (equals and all(dotted.split("."))):
            raise ConfigError("argument", argument, "key=value, such as density=0.1 or data.root=FOLDER")
        if " #" in text and text[0] not in "\"'[{":
            text = json.dumps(text, ensure_ascii=False)  # on a command line nobody comments
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload,index]
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(dotted, text, "a value in YAML, such as 0.1, null or [a, b]") from error
        if dotted in ("run_dir", "ckpt_path") and isinstance(value, bool | int | float):
            value = text  # a path like 007
        *sections, last = dotted.split(".")
        node = tree
        for section in sections:
            below = node.get(section)
            if not isinstance(below, dict):
                node[section] = named(below) if isinstance(below, str) else {}
            node = node[section]
        node[last] = value
    return tree
