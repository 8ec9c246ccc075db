"""Components in a config: their short and full form, layers of them on top of each other, names of fragments.

A component is ``{class_path: ..., init_args: {...}}``, as in Lightning's command line. In its short form it is the name
of a fragment or the path of a class, and init args may stand directly beside ``name`` or ``class_path``.
"""

from collections.abc import Collection
from typing import Any

from flash_pl.config import shipped
from flash_pl.config.init_args import closed_init_args
from flash_pl.config.shipped import as_component
from flash_pl.config.signature import locate, signature
from flash_pl.errors import ConfigError, as_yaml

# The keys of a component that are not init args: a fragment's name, and facts about a model or a data set.
MASK_KEYS = {"include": list[str], "exclude": list[str], "exclude_first_last": bool}  # which weights are masked
SIBLINGS = ("name", "class_path", "init_args", *MASK_KEYS, "defaults")


def is_component(node: object) -> bool:
    """Whether a node of the config is a component rather than plain data."""
    return isinstance(node, dict) and not {"name", "class_path", "init_args"}.isdisjoint(node)


def unfold(node: dict[str, Any], key: str = "") -> dict[str, Any]:
    """A component in its full form, with all init args under ``init_args``.

    >>> unfold({"class_path": "flash_pl.NST", "prune_rate": 0.3})
    {'class_path': 'flash_pl.NST', 'init_args': {'prune_rate': 0.3}}
    """
    short = {name: value for name, value in node.items() if name not in SIBLINGS}
    full = {name: value for name, value in node.items() if name in SIBLINGS}
    init_args = full.get("init_args") or {}
    if not isinstance(init_args, dict):
        problem = f"{as_yaml(init_args)} is not a mapping of argument names to values"
        raise ConfigError(f"{key}.init_args", problem)
    return full | {"init_args": overlay(init_args, short, key)}


def overlay(base: dict[str, Any], over: dict[str, Any], key: str = "") -> dict[str, Any]:
    """Two mappings of keys to nodes, ``merge``\\ d key by key."""
    return base | {
        name: merge(base[name], node, f"{key}.{name}".lstrip(".")) if name in base else node
        for name, node in over.items()
    }


def merge(base: Any, over: Any, key: str) -> Any:
    """The node ``over`` on top of ``base``; neither is changed.

    A component with a ``name`` in ``over`` replaces the one in ``base``. With another ``class_path`` only those init
    args of ``base`` are kept that the new class takes, as in Lightning's command line.
    """
    if isinstance(base, str) and isinstance(over, dict):
        base = as_component(base)
    if not (isinstance(base, dict) and isinstance(over, dict)) or "name" in over:
        return over
    if not (is_component(base) or is_component(over)):
        return overlay(base, over, key)
    base, over = unfold(base, key), unfold(over, key)
    if "class_path" in base and over.get("class_path", base["class_path"]) != base["class_path"]:
        names, is_open = _taken(f"{key}.class_path", over["class_path"])
        base = {"init_args": {name: node for name, node in base["init_args"].items() if is_open or name in names}}
    return base | over | {"init_args": overlay(base["init_args"], over["init_args"], key)}


def accepted(layer: dict[str, Any], component: dict[str, Any], key: str) -> dict[str, Any]:
    """The part of ``layer``, short keys for ``component``, that its class takes; nested components likewise."""
    names, _ = _taken(f"{key}.class_path", component["class_path"])
    kept = {}
    for name, value in layer.items():
        inner = component["init_args"].get(name)
        if isinstance(value, dict) and is_component(inner):
            kept[name] = accepted(value, inner, f"{key}.{name}")
        elif not isinstance(value, dict) and name in names:
            kept[name] = value
    return kept


def _taken(key: str, class_path: object) -> tuple[Collection[str], bool]:
    """The names of a class's init args, and whether it takes any others; a class is imported only if it must be."""
    if (read := closed_init_args(str(class_path))) is not None:
        return read, False
    takes = signature(locate(key, class_path))
    return takes.parameters, takes.open


def expand(node: Any, key: str, folder: str = "") -> Any:
    """Put the content of every fragment in the place of its name, to any depth.

    Inside a component a value is the name of a fragment if a folder is called like the init arg: ``partition: iid``.

    Raises:
        ConfigError: a name that no fragment in ``folder`` has.
    """
    if not isinstance(node, dict):
        return node
    if folder and "name" in node:
        refinement = {name: value for name, value in node.items() if name != "name"}
        node = merge(shipped.fragment(key, node["name"], folder), unfold(refinement, key), key)
    if is_component(node):
        node = unfold(node, key)
        return node | {"init_args": _expand_each(node["init_args"], key)}
    return _expand_each(node, key)


def _expand_each(nodes: dict[str, Any], key: str) -> dict[str, Any]:
    expanded = {}
    for name, node in nodes.items():
        folder = name if name in shipped.folders() else ""
        if isinstance(node, str) and folder and ("." in node or node in shipped.names(folder)):
            node = as_component(node)
        expanded[name] = expand(node, f"{key}.{name}", folder)
    return expanded
