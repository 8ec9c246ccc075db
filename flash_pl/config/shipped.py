"""The YAML files that come with the package: complete configs, and fragments in a folder for each kind of component."""

from importlib import resources
from pathlib import Path
from typing import Any

from flash_pl.config.hints import one_of
from flash_pl.config.read import read_yaml
from flash_pl.errors import ConfigError

_INSTALLED = Path(str(resources.files("flash_pl"))) / "conf"
SHIPPED = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "conf"  # the latter in a source checkout


def folders() -> list[str]:
    """The kinds of fragments: ``data``, ``model``, ``partition``, ..."""
    return sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())


def names(folder: str = "") -> list[str]:
    """What may be named in a ``folder`` of fragments; without one, the complete configs."""
    return sorted(path.stem for path in (SHIPPED / folder).glob("*.yaml"))


def description(name: str, folder: str = "") -> str:
    """The comment on the first line of a shipped file."""
    with open(SHIPPED / folder / f"{name}.yaml", encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()


def fragment(key: str, name: object, folder: str) -> dict[str, Any]:
    """The content of the fragment that ``key`` names.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in names(folder):
        raise ConfigError(key, name, one_of(name, names(folder)))
    return read_yaml(SHIPPED / folder / f"{name}.yaml")


def config(name_or_path: str) -> dict[str, Any]:
    """A complete config: a shipped one by its name, or any YAML file by its path.

    Raises:
        ConfigError: neither, or no YAML mapping.
    """
    if name_or_path in names():
        return read_yaml(SHIPPED / f"{name_or_path}.yaml")
    if not Path(name_or_path).is_file():
        raise ConfigError("config", name_or_path, f"the path of a YAML file or {one_of(name_or_path, names())}")
    return read_yaml(Path(name_or_path))
