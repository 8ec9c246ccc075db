"""From a component of the config to the object that it describes."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, get_args

from flash_pl.config import shipped
from flash_pl.config.components import is_component
from flash_pl.config.names import unknown_fragment, unknown_key
from flash_pl.config.signature import (
    Signature,
    check_kind,
    conforms,
    describe,
    fits,
    locate,
    signature,
    title,
)
from flash_pl.errors import EXPLAINED, ConfigError, as_yaml, in_one_line


def instantiate(key: str, node: Any, kind: Any, fill: Mapping[str, Any] | None = None) -> Any:
    """Build a component in its full form, and all components among its init args.

    Nothing is called before it is known to make an object of the ``kind``: a class must be of that kind, and the return
    annotation of a function must say so. The kind of an init arg is its type hint.

    Args:
        key: where the component stands in the config, for messages.
        node: ``{class_path, init_args}``.
        kind: class or protocol of the result, or a union of them.
        fill: init args to pass if the class has them and the config does not set them.

    Raises:
        ConfigError: a class that cannot be imported or is of another kind; an init arg that is unknown, missing or of
            the wrong type; a value that the class itself refuses.
    """
    if not (isinstance(node, dict) and "class_path" in node):
        raise ConfigError(key, f"{as_yaml(node)} is not {describe(kind)}")
    for name in node.keys() - {"name", "class_path", "init_args"}:
        raise unknown_key(f"{key}.{name}", ["class_path", "init_args"])
    class_path = node["class_path"]
    target = locate(f"{key}.class_path", class_path)
    check_kind(key, class_path, target, kind)
    built = _build(key, target, node.get("init_args", {}), fill)
    if not conforms(type(built), kind):  # an annotation may be wrong
        problem = f"{as_yaml(class_path)} returned {as_yaml(built)} instead of a {title(kind)}"
        raise ConfigError(f"{key}.class_path", problem)
    return built


def _build(key: str, target: Any, init_args: Mapping[str, Any], fill: Mapping[str, Any] | None = None) -> Any:
    """Call ``target`` with the ``init_args`` and those of ``fill`` that are among its arguments."""
    takes = signature(target)
    arguments = {name: value for name, value in (fill or {}).items() if name in takes.parameters}
    arguments |= {name: _argument(f"{key}.{name}", name, value, takes) for name, value in init_args.items()}
    for name, parameter in takes.parameters.items():
        if parameter.required and name not in arguments:
            raise ConfigError(f"{key}.{name}", f"{target.__name__} needs {describe(parameter.hint)} here")
    try:
        return target(**arguments)
    except ConfigError as error:
        raise error.within(key) from error
    except EXPLAINED:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        raise ConfigError(key, f"{target.__name__} cannot be built with these init args ({reason})") from error


def _argument(key: str, name: str, value: Any, takes: Signature) -> Any:
    """The value of one init arg, checked against the hint of its parameter."""
    if not takes.accepts(name):
        raise unknown_key(key, takes.parameters)
    hint = takes.parameters[name].hint if name in takes.parameters else Any
    if is_component(value) and "class_path" in value:
        return instantiate(key, value, hint)
    if isinstance(value, list):
        kind = _item_kind(hint)
        value = [_item(f"{key}[{index}]", item, kind) for index, item in enumerate(value)]
    if not fits(value, hint):
        if name in shipped.folders():
            raise unknown_fragment(key, value, name, shipped.names(name))
        raise ConfigError(key, f"{as_yaml(value)} is not {describe(hint)}")
    return value


def _item(key: str, item: Any, kind: Any) -> Any:
    """An item of a list: a component, a mapping with the fields of the dataclass ``kind``, or plain data."""
    if is_component(item):
        return instantiate(key, item, kind)
    if isinstance(item, dict) and is_dataclass(kind):
        return _build(key, kind, item)
    return item


def _item_kind(hint: Any) -> Any:
    """What the items of a list are: ``Tier`` for ``Sequence[Tier]``, also for ``Sequence[Tier] | None``."""
    hints = [choice for choice in get_args(hint) if choice is not NoneType] if NoneType in get_args(hint) else [hint]
    arguments = [argument for argument in get_args(hints[0]) if argument is not Ellipsis] if len(hints) == 1 else []
    return arguments[0] if len(arguments) == 1 else Any
