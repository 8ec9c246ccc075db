"""What a class or function named in YAML takes."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from importlib import import_module
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flash_pl.errors import ConfigError

WORDS: dict[Any, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value, as YAML has it, may be passed where ``hint`` stands.

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
    # A mapping for a mapping, a list for any iterable; a plain value is never an object of a class of its own.
    return not getattr(kind, "_is_protocol", False) and isinstance(value, kind)


def describe(hint: Any) -> str:
    """What a value for ``hint`` should be, in words.

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
    return f"a {getattr(kind, '__name__', kind)} ({{class_path: ..., init_args: ...}})"


def conforms(target: Any, kind: Any) -> bool:
    """Whether a class is a subclass of ``kind`` or has the members of the protocol ``kind``.

    Functions are not judged: what they return is known only after the call.
    """
    if kind is Any or not (inspect.isclass(target) and inspect.isclass(kind)):
        return True
    if not getattr(kind, "_is_protocol", False):
        return issubclass(target, kind)
    members = {name for name in vars(kind) if name == "__call__" or not name.startswith("_")}
    return members <= {name for cls in target.__mro__ for name in vars(cls)}


def one_of(value: object, names: Iterable[str], many: str = "a known name") -> str:
    """The allowed names and the nearest one to a mistyped ``value``; of ``many`` names only the latter.

    >>> one_of("digit", ["digits", "mnist"])
    'one of digits, mnist (did you mean digits?)'
    """
    known = list(names)
    nearest = get_close_matches(str(value), known, n=1)
    allowed = f"one of {', '.join(known)}" if len(known) < (12 if nearest else 30) else many
    return allowed + (f" (did you mean {nearest[0]}?)" if nearest else "")


def locate(key: str, class_path: object) -> Callable[..., Any]:
    """Import the class or function ``package.module.Name``.

    Raises:
        ConfigError: it cannot be imported or is not callable; a name nearby is suggested.
    """
    module_path, _, name = str(class_path).rpartition(".")
    try:
        module = import_module(module_path)
    except (ImportError, ValueError) as error:
        raise ConfigError(key, class_path, f"an importable class like package.module.Name ({error})") from error
    target = getattr(module, name, None)
    if not callable(target):
        public = [name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name))]
        raise ConfigError(key, class_path, one_of(name, public, f"a class or function of {module_path}"))
    return target


@dataclass(frozen=True)
class Parameter:
    """One keyword argument."""

    hint: Any
    required: bool


@dataclass(frozen=True)
class Signature:
    """The keyword arguments of a callable; ``open`` if any others are taken too."""

    parameters: dict[str, Parameter]
    open: bool

    def accepts(self, name: str) -> bool:
        """Whether ``name`` may be passed."""
        return self.open or name in self.parameters


def signature(target: Callable[..., Any]) -> Signature:
    """The arguments of a class or function. ``**kwargs`` are followed to the base class's ``__init__``, or to the class
    that a function says it returns."""
    found: dict[str, Parameter] = {}
    for depth, function in enumerate(_chain(target)):
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # implemented in C
            return Signature(found, open=True)
        hints = _hints(function)
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and parameter.name != "self":
                hint = hints.get(parameter.name, Any)
                # What is required further up, the callable itself may supply.
                required = depth == 0 and parameter.default is parameter.empty
                found.setdefault(parameter.name, Parameter(hint, required))
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            return Signature(found, open=False)
    return Signature(found, open=True)


def _chain(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    if not inspect.isclass(target):
        returned = _hints(target).get("return")
        return [target, *(_chain(returned) if inspect.isclass(returned) else [])]
    return [cls.__dict__["__init__"] for cls in target.__mro__[:-1] if "__init__" in cls.__dict__] or [lambda: None]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that exist for type checkers only
        return {}
