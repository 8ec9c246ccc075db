"""The keyword arguments of a class or function that YAML names, and whether a plain value fits a type hint."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from flash_pl.config.init_args import names_in
from flash_pl.config.names import RENAMED_CLASSES, unknown_class, with_article
from flash_pl.config.trust import check_allowed
from flash_pl.errors import ConfigError, as_yaml

WORDS: dict[Any, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a string", NoneType: "null"}
OPERATORS = {"__call__", "__getitem__", "__len__", "__iter__"}  # methods that a protocol may ask for
STANDARD_LIBRARY = {*sys.stdlib_module_names, "__main__"}


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
    return f"{with_article(getattr(kind, '__name__', str(kind)))} ({{class_path: ..., init_args: ...}})"


def conforms(made: Any, kind: Any) -> bool:
    """Whether a class is of a ``kind``: a subclass of it, or a class with the members of the protocol ``kind``.

    Args:
        made: a class, or the return annotation of a function: it may be a union, of which one choice must conform, or a
            tuple or list of classes.
        kind: a class, a protocol, a union of kinds, or a tuple or list of one kind. ``Any`` and ``object`` say nothing
            about a class, so that no class conforms to them.

    >>> conforms(bool, int | None), conforms(str, int), conforms(str | bool, int), conforms(int, Any)
    (True, False, True, False)
    >>> conforms(tuple[bool, bool], tuple[int, ...]), conforms(tuple[str, bool], tuple[int, ...])
    (True, False)
    """
    if get_origin(made) in (Union, UnionType):
        return any(conforms(choice, kind) for choice in get_args(made))
    if get_origin(kind) in (Union, UnionType):
        return any(conforms(made, choice) for choice in get_args(kind))
    made_class, kind_class = get_origin(made) or made, get_origin(kind) or kind
    if not (inspect.isclass(made_class) and inspect.isclass(kind_class)) or kind_class is object:
        return False
    if getattr(kind_class, "_is_protocol", False):
        members = {name for name in vars(kind_class) if name in OPERATORS or not name.startswith("_")}
        return members <= {name for cls in made_class.__mro__ for name in vars(cls)}
    if not issubclass(made_class, kind_class):
        return False
    items = [item for item in get_args(made) if item is not Ellipsis] if made_class in (tuple, list) else []
    return all(conforms(item, get_args(kind)[0]) for item in items if get_args(kind))


def result_of(target: Callable[..., Any]) -> Any:
    """What calling ``target`` makes: a class itself, the return annotation of a function; None if it has none."""
    return target if inspect.isclass(target) else _hints(target).get("return")


def check_kind(key: str, class_path: str, target: Callable[..., Any], kind: Any, called: str = "") -> None:
    """Check, before ``target`` is called, that the call makes an object of the ``kind``.

    Args:
        key: where the component stands in the config.
        class_path: of ``target``.
        target: a class or function.
        kind: see ``conforms``.
        called: the kind in words; by default its ``title``.

    Raises:
        ConfigError: it makes something else, or nobody says what it makes or what it should make.
    """
    name, made = as_yaml(class_path), result_of(target)
    if kind in (Any, object):
        hint = "give that argument a type hint, the class or protocol of what it takes"
        raise ConfigError(key, f"{name} cannot be checked: the argument has no type hint", hint)
    called = called or title(kind)
    if made is None or made is Any:
        problem = f"{name} is a function that does not say what it returns"
        raise ConfigError(f"{key}.class_path", problem, f"give it a return annotation: {with_article(called)}")
    if not conforms(made, kind):
        raise ConfigError(f"{key}.class_path", f"{name} is not {with_article(called)}", "give the path of one")


def title(kind: Any) -> str:
    """The name of a kind in words.

    >>> title(int), title(int | str | None), title(tuple[int, int])
    ('int', 'int or str', 'tuple of int')
    """
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(title(choice) for choice in get_args(kind) if choice is not NoneType)
    if get_origin(kind) in (tuple, list):
        return f"{get_origin(kind).__name__} of {title(get_args(kind)[0])}"
    return str(getattr(kind, "__name__", kind))


def locate(key: str, class_path: object) -> Callable[..., Any]:
    """Import the class or function ``package.module.Name``; nothing is called.

    Raises:
        ConfigError: it cannot be imported or is not callable, and the hint is a similar name of its module; it is of
            Python's standard library, which has no components; or a foreign file names it, see ``foreign_names``.
    """
    if str(class_path) in RENAMED_CLASSES:
        raise ConfigError(key, f"{as_yaml(class_path)} was renamed", f"use {RENAMED_CLASSES[str(class_path)]}")
    module_path, _, name = str(class_path).rpartition(".")
    if module_path.partition(".")[0] in STANDARD_LIBRARY:
        problem = f"{as_yaml(class_path)} is of Python's standard library, which has no components"
        raise ConfigError(key, problem, "give the path of a class like package.module.Name")
    check_allowed(key, str(class_path))
    check_defined(key, class_path)
    try:
        module = import_module(module_path)
    except (ImportError, TypeError, ValueError) as error:  # a TypeError of a path that begins with a dot
        hint = "give the path of a class that can be imported, like package.module.Name"
        raise ConfigError(key, f"{as_yaml(class_path)} cannot be imported ({error})", hint) from error
    target = getattr(module, name, None)
    if not callable(target):
        public = [name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name))]
        raise unknown_class(key, class_path, public)
    return target


def check_defined(key: str, class_path: object) -> None:
    """Check in the source that a module of flash_pl has a class or function; nothing is imported.

    Raises:
        ConfigError: by its ``key``, it has not. Other packages are not checked.
    """
    module, _, name = str(class_path).rpartition(".")
    names = names_in(module)
    if names and name not in names and str(class_path) not in RENAMED_CLASSES:
        raise unknown_class(key, class_path, [name for name in names if name[0].isupper() and "_" not in name])


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
        return inspect.get_annotations(function, eval_str=True)  # get_type_hints adds None on Python 3.10
    except (NameError, TypeError, AttributeError):  # names that exist for type checkers only
        return {}
