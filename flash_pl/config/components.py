"""From a component of the config to the object that it describes."""

import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, get_args

from flash_pl.config import shipped
from flash_pl.config.compose import is_component
from flash_pl.config.signature import Signature, conforms, describe, fits, locate, one_of, signature
from flash_pl.errors import ConfigError


def instantiate(key: str, node: Any, kind: Any = Any, fill: Mapping[str, Any] | None = None) -> Any:
    """Build a component in its full form, and all components among its init args.

    Args:
        key: where it stands in the config, for messages.
        node: ``{class_path, init_args}``.
        kind: class or protocol that the result must be of.
        fill: init args to pass if the class names them and the config does not.

    Raises:
        ConfigError: not importable, of another kind, an init arg that is unknown, missing or of the wrong type, or what
            the class itself refuses.
    """
    if not (isinstance(node, dict) and "class_path" in node):
        raise ConfigError(key, node, describe(kind))
    for name in node.keys() - {"name", "class_path", "init_args"}:
        raise ConfigError(f"{key}.{name}", node[name], "no such key here")
    class_path = node["class_path"]
    target = locate(f"{key}.class_path", class_path)
    if not conforms(target, kind):
        raise ConfigError(f"{key}.class_path", class_path, f"the path of a {kind.__name__}")
    built = _build(key, target, node.get("init_args", {}), fill)
    if not conforms(type(built), kind):
        raise ConfigError(f"{key}.class_path", class_path, f"the path of a {kind.__name__}")
    return built


def _build(key: str, target: Any, init_args: Mapping[str, Any], fill: Mapping[str, Any] | None = None) -> Any:
    """Call ``target`` with the ``init_args`` and those of ``fill`` that it names."""
    takes = signature(target)
    arguments = {name: value for name, value in (fill or {}).items() if name in takes.parameters}
    arguments |= {name: _argument(f"{key}.{name}", name, value, takes) for name, value in init_args.items()}
    for name, parameter in takes.parameters.items():
        if parameter.required and name not in arguments:
            raise ConfigError(f"{key}.{name}", None, f"{describe(parameter.hint)}; {target.__name__} needs it")
    try:
        return target(**arguments)
    except ConfigError as error:
        raise error.within(key) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            key, target.__name__, f"init args with which it can be built ({' '.join(str(error).split())})"
        ) from error


def _argument(key: str, name: str, value: Any, takes: Signature) -> Any:
    """The value of one init arg, checked against the hint of its parameter."""
    if not takes.accepts(name):
        raise ConfigError(key, value, one_of(name, takes.parameters) if takes.parameters else "no init args here")
    hint = takes.parameters[name].hint if name in takes.parameters else Any
    if is_component(value) and "class_path" in value:
        return instantiate(key, value, _class_in(hint))
    if isinstance(value, list):
        kind = _item_class(hint)
        value = [_item(f"{key}[{index}]", item, kind) for index, item in enumerate(value)]
    if not fits(value, hint):
        names = shipped.names(name) if name in shipped.folders() else []
        raise ConfigError(key, value, one_of(value, names) if names else describe(hint))
    return value


def _item(key: str, item: Any, kind: Any) -> Any:
    """An item of a list: a component, a mapping that holds the fields of the dataclass ``kind``, or plain data."""
    if is_component(item):
        return instantiate(key, item)
    if isinstance(item, dict) and is_dataclass(kind):
        return _build(key, kind, item)
    return item


def _item_class(hint: Any) -> Any:
    """``Tier`` for ``Sequence[Tier]``."""
    arguments = get_args(hint)
    return arguments[0] if len(arguments) == 1 else Any


def _class_in(hint: Any) -> Any:
    """The class that a component for ``hint`` must be of: ``Vote`` for ``Vote | None``."""
    classes = [choice for choice in get_args(hint) or [hint] if inspect.isclass(choice) and choice is not type(None)]
    return classes[0] if len(classes) == 1 else Any
