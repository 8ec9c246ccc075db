"""What a class or function named in YAML takes."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_type_hints

from flash_pl.config.hints import one_of
from flash_pl.errors import ConfigError


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
