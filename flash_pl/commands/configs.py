"""The command ``flash-pl configs``: the shipped configs and fragments, their options and their content."""

import argparse

from flash_pl.config import shipped
from flash_pl.config.init_args import init_args
from flash_pl.config.keys import KEYS
from flash_pl.config.names import one_of
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.lines import filled, listed
from flash_pl.yaml12 import dump

COLUMN = 20  # of the names, in all lists


def configs(options: argparse.Namespace) -> None:
    """List the shipped configs and the names that keys can have, or show one of them."""
    print(list_shipped() if options.name is None else about(options.name))


def list_shipped() -> str:
    """Configs, data sets, models and all other fragments, one line each."""
    lines = ["configs (flash-pl fit NAME)"]
    lines.append(listed([(name, shipped.description(name)) for name in shipped.names()], COLUMN))
    others = [folder for folder in shipped.folders() if folder not in ("data", "model")]
    for folder in ["data", "model", *others]:
        names = shipped.names(folder)
        lines += ["", folder, listed([(name, shipped.description(name, folder)) for name in names], COLUMN)]
    return "\n".join(lines)


def about(name: str) -> str:
    """The content of a shipped file, or the names in a section with their options.

    Args:
        name: of a config (``jmwst``), of a section in the singular or plural (``scheduler``, ``schedulers``), or of a
            fragment (``scheduler/jmwst``, or ``digits`` if no config has this name).

    Raises:
        ConfigError: nothing has this name.
    """
    for section in (name, name.removesuffix("s"), f"{name.removesuffix('ies')}y"):
        if section in shipped.folders():
            return list_section(section)
    section, _, short = name.rpartition("/")
    if section in shipped.folders() and short in shipped.names(section):
        return show(short, section)
    folders = [folder for folder in shipped.folders() if name in shipped.names(folder)]
    if name in shipped.names():
        return show(name)
    if folders:
        return "\n\n".join(show(name, folder) for folder in folders)
    known = [*shipped.names(), *shipped.folders(), *(one for folder in shipped.folders() for one in _paths(folder))]
    problem = f"{as_yaml(name)} is not a shipped config or a section"
    raise ConfigError("name", problem, one_of(name, dict.fromkeys(known), "flash-pl configs lists them"))


def show(name: str, folder: str = "") -> str:
    """A shipped file with its comments. Comments around it say where it lies, and which parts have the same name."""
    path = shipped.SHIPPED / folder / f"{name}.yaml"
    same = [f"{other}/{name}" for other in shipped.folders() if other != folder and name in shipped.names(other)]
    lines = [f"# {path}", path.read_text(encoding="utf-8").rstrip()]
    if not folder and same:
        lines.append(f"# Parts of this name: {', '.join(f'flash-pl configs {other}' for other in same)}")
    return "\n".join(lines)


def list_section(section: str) -> str:
    """The names in a section with a line each, and below it the options with their defaults."""
    lines = [filled(f"{section}: names, what they are, and options with their defaults", "", "")]
    for name in shipped.names(section):
        given = ", ".join(f"{option}={default}" for option, default in options_of(name, section).items())
        about = [(name, shipped.description(name, section)), ("", given)]
        lines += ["", listed([entry for entry in about if any(entry)], COLUMN)]
    example = f"flash-pl fit CONFIG {section}=NAME {section}.OPTION=VALUE"
    return "\n".join([*lines, *(["", "set them:", listed([(example, "")])] if section in KEYS else [])])


def options_of(name: str, section: str) -> dict[str, str]:
    """The options of a fragment with their defaults: those of the file, then other arguments of the class.

    >>> options_of("magnitude", "voter")
    {'layer_budget': 'mean', 'rescale': 'water_fill', 'structure': 'unstructured'}
    """
    content = shipped.content(name, section)
    given = {
        option: value if isinstance(value, str) else dump(value, flow=True).strip()
        for option, value in (content.get("init_args") or {}).items()
    }
    of_class = init_args(str(content.get("class_path", "")))
    return {option: known.default or "required" for option, known in of_class.items()} | given


def _paths(folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in shipped.names(folder)]
