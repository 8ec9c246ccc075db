"""Names of classes in a file from somebody else become code only after the user has allowed it.

A config names classes, and to build them is to run them. A config that a user writes is the user's own program. The
config inside of a checkpoint may be a stranger's, and people open checkpoints as they open data. So a command that
builds something from such a config does it inside ``foreign_names``, and ``locate``, the only place where a name
becomes a class, asks ``check_allowed``. Environment variables of the user are no business of a stranger either.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flash_pl.config import shipped
from flash_pl.errors import ConfigError, as_yaml

# The beginning of a reference: ${key}, ${resolver: or ${part of a name${
REFERENCE = re.compile(r"\$\{([^:}$]*)([:}$])")


@dataclass(frozen=True)
class _Foreign:
    """The file whose names are being used, and the names that are allowed."""

    path: str
    allowed: frozenset[str]


_foreign: ContextVar[_Foreign | None] = ContextVar("foreign", default=None)


@contextmanager
def foreign_names(path: str | Path, config: Any, own: Any = None, trust: bool = False) -> Iterator[None]:
    """In the block, a class that the file at ``path`` names is used only if it is one of flash_pl or of the user.

    References of the config may stand for its own keys alone, not for environment variables.

    Args:
        path: of the file, for messages.
        config: the config in the file.
        own: values that the user has written, such as the overrides of the command line; the classes that they name are
            the user's.
        trust: the user trusts the file: every name is allowed, and a line on stderr says which there are.

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
    allowed = frozenset(_strings(own))
    if trust:
        if names := [name for name in own_names(config) if name not in allowed]:
            print(f"flash-pl: {path} is trusted, with the code that it names: {', '.join(names)}", file=sys.stderr)
    else:
        _check_references(path, config)
    token = _foreign.set(None if trust else _Foreign(str(path), allowed))
    try:
        yield
    finally:
        _foreign.reset(token)


def _check_references(path: str | Path, config: Any) -> None:
    """Check that no text calls a resolver other than our own ``times``, not even by a name that is put together."""
    for text in _strings(config):
        for name, end in REFERENCE.findall(text):
            if end == "$" or (end == ":" and name.strip() != "times"):
                problem = f"{as_yaml(str(path))} refers to more than its own keys: {as_yaml(text[:80])}"
                raise ConfigError("ckpt_path", problem, "add --trust if you trust it")


def check_allowed(key: str, class_path: str) -> None:
    """Check that ``class_path`` may be imported here.

    Raises:
        ConfigError: it is from a foreign file, and the user has not allowed it; by ``key``.
    """
    foreign = _foreign.get()
    if foreign is not None and not is_shipped(class_path) and class_path not in foreign.allowed:
        problem = f"{as_yaml(foreign.path)} names {as_yaml(class_path)}, whose code would run"
        raise ConfigError(key, problem, "add --trust if you trust it")


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
    """The class paths in a config that are not shipped, each once.

    >>> own_names({"model": {"class_path": "my_file.Net"}, "sampler": {"class_path": "flash_pl.server.UniformSampler"}})
    ['my_file.Net']
    """
    mappings = (node for node in _nodes(config) if isinstance(node, Mapping))
    paths = [path for node in mappings if isinstance(path := node.get("class_path"), str)]
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
