"""Names of classes in a file from somebody else become code only after the user has allowed it.

A config names classes, and to build them is to run them. A config that a user writes is the user's own program. The
config inside of a checkpoint may be a stranger's, and people open checkpoints as they open data. So a command that
builds something from such a config, or compares it with the user's own, does it inside ``foreign_names``, and
``locate``, the only place where a name becomes a class, asks ``check_allowed``. Environment variables of the user are
no business of a stranger either.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flash_pl.config import shipped
from flash_pl.config.references import resolve_plain
from flash_pl.errors import ConfigError, as_yaml, printable


@dataclass(frozen=True)
class _Foreign:
    """The file whose names are being used, the texts that are the user's own, and what to do about other ones."""

    path: str
    own: frozenset[str]
    remedy: str
    trusted: bool
    said: set[str]


_foreign: ContextVar[_Foreign | None] = ContextVar("foreign", default=None)


@contextmanager
def foreign_names(
    path: str | Path,
    config: Mapping[str, Any],
    own: Any = None,
    trust: bool = False,
    remedy: str = "add --trust if you trust it",
) -> Iterator[None]:
    """In the block, a class that the file at ``path`` names is used only if it is one of flash_pl or of the user.

    References of the config may stand for its own keys alone, not for environment variables.

    Args:
        path: of the file, for messages.
        config: the config in the file.
        own: values that the user has written, such as the overrides of the command line; the classes and references in
            them are the user's.
        trust: the user trusts the file: everything is allowed, and a line on stderr names each class.
        remedy: what the user can do about a refusal.

    Raises:
        ConfigError: a reference that is no key.

    >>> from flash_pl.config.signature import locate
    >>> with foreign_names("x", {}):
    ...     locate("model.class_path", "flash_pl.models.LeafCNN").__name__
    'LeafCNN'
    >>> with foreign_names("x", {}):
    ...     locate("model.class_path", "a.Net")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: model.class_path: 'x' names 'a.Net', whose code would run; add --trust if you trust it
    """
    foreign = _Foreign(str(path), frozenset(_strings(own)), remedy, trust, set())
    if not trust:
        _check_references(foreign, config)
    token = _foreign.set(foreign)
    try:
        yield
    finally:
        _foreign.reset(token)


def _check_references(foreign: _Foreign, config: Mapping[str, Any]) -> None:
    """Check that every text of a config stands for itself or for one of its keys; see ``resolve_plain``."""
    given = config.get("given")
    for layer in (config, {**config, **given} if isinstance(given, Mapping) else {}):
        for text in _strings(resolve_plain(layer, foreign.path) if layer else {}):
            if "${" in text and text not in foreign.own:
                problem = f"{as_yaml(foreign.path)} refers to more than its own keys: {as_yaml(text)}"
                raise ConfigError("ckpt_path", problem, foreign.remedy)


def check_allowed(key: str, class_path: str) -> None:
    """Check that ``class_path`` may be imported here.

    Raises:
        ConfigError: it is from a foreign file, and the user has not allowed it; by ``key``.
    """
    foreign = _foreign.get()
    if foreign is None or is_shipped(class_path) or class_path in foreign.own:
        return
    if not foreign.trusted:
        problem = f"{as_yaml(foreign.path)} names {as_yaml(class_path)}, whose code would run"
        raise ConfigError(key, problem, foreign.remedy)
    if class_path not in foreign.said:
        foreign.said.add(class_path)
        print(f"flash-pl: {printable(foreign.path)} is trusted: using {as_yaml(class_path)}", file=sys.stderr)


def is_shipped(class_path: str) -> bool:
    """Whether the name is a public one of flash_pl, or the class of a shipped fragment.

    >>> is_shipped("flash_pl.schedulers.NST"), is_shipped("flash_pl.__main__.main"), is_shipped("my_file.MyNet")
    (True, False, False)
    """
    package, *names = class_path.split(".")
    public = package == "flash_pl" and not any(name.startswith("_") for name in names)
    return public or class_path in _classes_of_loggers()


@cache
def _classes_of_loggers() -> frozenset[str]:
    """Lightning's loggers; all other shipped fragments name classes of flash_pl."""
    fragments = [shipped.fragment("logger", name, "logger") for name in shipped.names("logger")]
    return frozenset(fragment["class_path"] for fragment in fragments)


def own_names(config: Any) -> list[str]:
    """The classes and functions that a config names and that are not shipped, each once.

    >>> own_names({"model": {"class_path": "my_file.Net"}, "sampler": {"class_path": "flash_pl.server.UniformSampler"}})
    ['my_file.Net']
    """
    mappings = (node for node in _nodes(config) if isinstance(node, Mapping))
    named = [node.get(key) for node in mappings for key in ("class_path", "collate_fn")]
    paths = [path for path in named if isinstance(path, str)]
    return [path for path in dict.fromkeys(paths) if not is_shipped(path)]


def _strings(config: Any) -> Iterator[str]:
    return (node for node in _nodes(config) if isinstance(node, str))


def _nodes(config: Any) -> Iterator[Any]:
    """The values in a config at any depth."""
    nodes = [config]
    while nodes:
        node = nodes.pop(0)
        yield node
        if isinstance(node, Mapping):
            nodes += node.values()
        elif isinstance(node, list | tuple):
            nodes += node
