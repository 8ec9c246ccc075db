"""The YAML files that come with the package: complete configs, and fragments in a folder for each kind of component."""

import json
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from flash_pl.config.names import one_of, unknown_fragment
from flash_pl.errors import ConfigError, as_yaml, in_one_line
from flash_pl.yaml12 import load

_INSTALLED = Path(str(resources.files("flash_pl"))) / "conf"
SHIPPED = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "conf"  # the latter in a source checkout
# A path that YAML reads as it stands.
PLAIN = re.compile(r"[\w./-]*[^\W\d][\w./=+-]*/[\w./,=+-]*")


def folders() -> list[str]:
    """The kinds of fragments: ``data``, ``model``, ``partition``, ..."""
    return sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())


def names(folder: str = "") -> list[str]:
    """The names of the fragments in a ``folder``; without a folder, the names of the complete configs."""
    return sorted(path.stem for path in (SHIPPED / folder).glob("*.yaml"))


def description(name: str, folder: str = "") -> str:
    """The comment on the first line of a shipped file."""
    with open(SHIPPED / folder / f"{name}.yaml", encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()


def content(name: str, folder: str = "") -> dict[str, Any]:
    """The mapping in a shipped file, references unresolved."""
    return dict(load((SHIPPED / folder / f"{name}.yaml").read_text(encoding="utf-8")) or {})


def fragment(key: str, name: object, folder: str) -> dict[str, Any]:
    """The content of the fragment that ``key`` names.

    Raises:
        ConfigError: no fragment has this name.
    """
    if name not in names(folder):
        raise unknown_fragment(key, name, folder, names(folder))
    return content(str(name), folder)


def read_config(name_or_path: str) -> dict[str, Any]:
    """A complete config: a shipped one by its name, or any YAML file by its path.

    Raises:
        ConfigError: neither exists, or the file is not a YAML mapping.
    """
    if name_or_path in names():
        return content(name_or_path)
    if not Path(name_or_path).is_file():
        hint = f"give the path of a YAML file, or {one_of(name_or_path, names())}"
        for folder in ("data", "model", "scheduler"):
            if name_or_path in names(folder):
                hint = f"it is a name for {folder}, as in flash-pl fit jmwst {folder}={name_or_path}"
        raise ConfigError("config", f"{as_yaml(name_or_path)} is not a file or the name of a shipped config", hint)
    return read_yaml(Path(name_or_path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, interpolations unresolved; an empty file is an empty mapping.

    Raises:
        ConfigError: the file cannot be read, or is not a YAML mapping.
    """
    try:
        content = load(path.read_text(encoding="utf-8-sig"))
        plain = _plain({} if content is None else content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = f"{as_yaml(str(path))} is not a readable YAML file ({in_one_line(error)})"
        raise ConfigError("config", problem) from error
    if not isinstance(plain, dict):
        raise ConfigError("config", f"{as_yaml(str(path))} does not hold a mapping of keys to values")
    return {str(key): value for key, value in plain.items()}


def _plain(content: Any) -> Any:
    """The value, if OmegaConf can hold it: its references ``${...}`` are well formed.

    Raises:
        yaml.YAMLError: it cannot.
    """
    if _is_simple(content):
        return content
    from omegaconf import OmegaConf  # only here, since its import takes longer than to read a config
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.create({"value": content}))["value"]  # type: ignore[call-overload,index]
    except OmegaConfBaseException as error:
        raise yaml.YAMLError(in_one_line(error)) from error


def _is_simple(content: Any) -> bool:
    """Whether OmegaConf can certainly hold a value and leaves it as it is.

    >>> _is_simple({"tiers": [0.1, None]}), _is_simple(["${density}"]), _is_simple({None: 1})
    (True, False, False)
    """
    nodes = [content]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict) and all(isinstance(key, str) for key in node):
            nodes += [*node, *node.values()]
        elif isinstance(node, list):
            nodes += node
        elif not (node is None or isinstance(node, int | float) or (isinstance(node, str) and "${" not in node)):
            return False
    return True


def read_dotlist(arguments: Iterable[str]) -> dict[str, Any]:
    """``["data=mnist", "data.root=/x"]`` -> ``{"data": {"name": "mnist", "root": "/x"}}``, in any order.

    Values are YAML 1.2. A component that is both named and refined becomes a mapping with ``name``.

    Raises:
        ConfigError: an argument without ``=``, or with a value that is not YAML.
    """
    tree: dict[str, Any] = {}
    # Shorter keys first, so that a name never wipes out its refinements.
    for argument in sorted(arguments, key=lambda argument: argument.partition("=")[0].count(".")):
        dotted, equals, text = argument.partition("=")
        if not (equals and all(dotted.split("."))):
            hint = "write key=value, such as density=0.1 or data.root=FOLDER"
            raise ConfigError("argument", f"{as_yaml(argument)} is not key=value", hint)
        if " #" in text and text[0] not in "\"'[{":
            text = json.dumps(text, ensure_ascii=False)  # YAML would take the rest for a comment
        try:
            value = _plain(load(text))
        except yaml.YAMLError as error:
            hint = "write a value in YAML, such as 0.1, null or [a, b]"
            raise ConfigError(dotted, f"{as_yaml(text)} is not YAML", hint) from error
        if dotted in ("run_dir", "ckpt_path") and isinstance(value, bool | int | float):
            value = text  # a path like 007
        *sections, last = dotted.split(".")
        node = tree
        for section in sections:
            below = node.get(section)
            if not isinstance(below, dict):
                node[section] = as_component(below) if isinstance(below, str) else {}
            node = node[section]
        node[last] = value
    return tree


def as_component(name: object) -> dict[str, Any]:
    """The component that a word stands for: a fragment's name, or the path of a class.

    >>> as_component("jmwst"), as_component("my_file.MyScheduler")
    ({'name': 'jmwst'}, {'class_path': 'my_file.MyScheduler'})
    """
    return {"class_path": name} if isinstance(name, str) and "." in name else {"name": name}


def as_argument(path: Path) -> str:
    """The path as ``run_dir=`` takes it on a command line: braces stand for names there, and values are YAML.

    >>> as_argument(Path("runs/a")), as_argument(Path("runs/{a} #1"))
    ('runs/a', '"runs/{{a}} #1"')
    """
    template = str(path).replace("{", "{{").replace("}", "}}")
    return template if PLAIN.fullmatch(template) else json.dumps(template, ensure_ascii=False)
