"""The keyword arguments of a class or function that YAML names, and whether a plain value fits a type hint."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flash_pl.config.names import RENAMED_CLASSES, one_of
from flash_pl.errors import ConfigError, as_yaml

WORDS: dict[Any, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a string", NoneType: "null"}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value, as YAML has it, may be passed to a parameter with the type ``hint``.

    >>> fits(1, float), fits(1.0, int), fits(True, int), fits("x", str | None), fits([1, "x"], tuple[int, int])
    (True, False, False, True, False)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, choice) for choice in arguments)
    if origin is Literal:
        return value in arguments
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    kind = NoneType if hint is None else origin or hint
    if kind is Any or not inspect.isclass(kind):
        return True
    if isinstance(value, list) and issubclass(kind, Sequence):
        items = [argument for argument in arguments if argument is not Ellipsis] or [Any]
        return not issubclass(kind, str) and all(any(fits(item, choice) for choice in items) for item in value)
    if isinstance(value, str) and issubclass(kind, (Enum, PathLike)):
        return True
    # A mapping fits a mapping, a list fits any iterable; no plain value is an object of a user's class.
    return not getattr(kind, "_is_protocol", False) and isinstance(value, kind)


def describe(hint: Any) -> str:
    """The values that fit ``hint``, in words.

    >>> describe(int | None), describe(Literal["batch", "group"])
    ('an integer or null', "'batch' or 'group'")
    """
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(describe(choice) for choice in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    kind = get_origin(hint) or hint
    if kind is Any or kind in WORDS:
        return WORDS.get(kind, "a value")
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        return "a list"
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a mapping"
    if inspect.isclass(kind) and issubclass(kind, PathLike):
        return "a path"
    return f"a {getattr(kind, '__name__', kind)} ({{class_path: ..., init_args: ...}})"


def conforms(target: Any, kind: Any) -> bool:
    """Whether a class is a subclass of ``kind``, or has the members of the protocol ``kind``.

    A function conforms to everything: the class of its result is known only after the call.
    """
    if kind is Any or not (inspect.isclass(target) and inspect.isclass(kind)):
        return True
    if not getattr(kind, "_is_protocol", False):
        return issubclass(target, kind)
    members = {name for name in vars(kind) if name == "__call__" or not name.startswith("_")}
    return members <= {name for cls in target.__mro__ for name in vars(cls)}


def locate(key: str, class_path: object) -> Callable[..., Any]:
    """Import the class or function ``package.module.Name``.

    Raises:
        ConfigError: it cannot be imported or is not callable; the hint is a similar name of its module.
    """
    if class_path in RENAMED_CLASSES:
        raise ConfigError(key, f"{as_yaml(class_path)} was renamed", f"use {RENAMED_CLASSES[str(class_path)]}")
    module_path, _, name = str(class_path).rpartition(".")
    try:
        module = import_module(module_path)
    except (ImportError, ValueError) as error:
        hint = "give the path of a class that can be imported, like package.module.Name"
        raise ConfigError(key, f"{as_yaml(class_path)} cannot be imported ({error})", hint) from error
    target = getattr(module, name, None)
    if not callable(target):
        public = [name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name))]
        problem = f"{as_yaml(class_path)} is not a class or function of {module_path}"
        raise ConfigError(key, problem, one_of(name, public))
    return target


@dataclass(frozen=True)
class Parameter:
    """One keyword argument; ``default`` is None where the argument is required."""

    hint: Any
    required: bool
    default: Any = None


@dataclass(frozen=True)
class Signature:
    """The keyword arguments of a callable; ``open`` if it takes any others too."""

    parameters: dict[str, Parameter]
    open: bool

    def accepts(self, name: str) -> bool:
        """Whether the callable takes the keyword argument ``name``."""
        return self.open or name in self.parameters


def signature(target: Callable[..., Any]) -> Signature:
    """The keyword arguments of a class or function.

    ``**kwargs`` stand for the arguments of the base class's ``__init__``, or of the class that a function returns.
    """
    parameters: dict[str, Parameter] = {}
    for depth, function in enumerate(_chain(target)):
        try:
            own = list(inspect.signature(function).parameters.values())
            if inspect.isclass(target) and function.__name__ == "__init__":
                own = own[1:]  # the object, whatever its name
        except (TypeError, ValueError):  # implemented in C
            return Signature(parameters, open=True)
        hints = _hints(function)
        for parameter in own:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                hint, is_empty = hints.get(parameter.name, Any), parameter.default is parameter.empty
                # An argument that the base class requires may be supplied by the class itself.
                known = Parameter(hint, depth == 0 and is_empty, None if is_empty else parameter.default)
                parameters.setdefault(parameter.name, known)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in own):
            return Signature(parameters, open=False)
    return Signature(parameters, open=True)


def _chain(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The functions that ``**kwargs`` are passed on to, from ``target`` to the last base class."""
    if not inspect.isclass(target):
        returned = _hints(target).get("return")
        return [target, *(_chain(returned) if inspect.isclass(returned) else [])]
    return [cls.__dict__["__init__"] for cls in target.__mro__[:-1] if "__init__" in cls.__dict__] or [lambda: None]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that exist for type checkers only
        return {}
