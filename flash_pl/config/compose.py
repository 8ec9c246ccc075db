"""From a config, its fragments and the command line to one resolved config."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from flash_pl.config import shipped
from flash_pl.config.schema import KEYS, referring, typed
from flash_pl.config.shipped import named, read_dotlist
from flash_pl.config.signature import locate, one_of, signature
from flash_pl.errors import ConfigError

# What may stand beside init args in a component: a fragment's name, and facts about a model or a data set.
SIBLINGS = ("name", "class_path", "init_args", "exclude", "exclude_first_last", "defaults")


def is_component(node: object) -> bool:
    """Whether a node of the config is a component rather than plain data."""
    return isinstance(node, dict) and not {"name", "class_path", "init_args"}.isdisjoint(node)


def fold(node: dict[str, Any], key: str = "") -> dict[str, Any]:
    """A component in its full form: keys beside the grammar's own are short for init args.

    >>> fold({"class_path": "flash_pl.NST", "prune_rate": 0.3})
    {'class_path': 'flash_pl.NST', 'init_args': {'prune_rate': 0.3}}
    """
    short = {name: value for name, value in node.items() if name not in SIBLINGS}
    full = {name: value for name, value in node.items() if name in SIBLINGS}
    given = full.get("init_args") or {}
    if not isinstance(given, dict):
        raise ConfigError(f"{key}.init_args", given, "a mapping of argument names to values")
    return full | {"init_args": overlay(given, short, key)}


def overlay(base: dict[str, Any], over: dict[str, Any], key: str = "") -> dict[str, Any]:
    """Two mappings of keys to nodes, ``merge``\\ d key by key."""
    return base | {
        name: merge(base[name], node, f"{key}.{name}".lstrip(".")) if name in base else node
        for name, node in over.items()
    }


def merge(base: Any, over: Any, key: str) -> Any:
    """The node ``over`` on top of ``base``; neither is changed.

    A component that ``over`` names anew replaces the one in ``base``. With another ``class_path`` only those init args
    of ``base`` are kept that the new class takes, as in Lightning's command line.
    """
    if isinstance(base, str) and isinstance(over, dict):
        base = named(base)
    if not (isinstance(base, dict) and isinstance(over, dict)) or "name" in over:
        return over
    if not (is_component(base) or is_component(over)):
        return overlay(base, over, key)
    base, over = fold(base, key), fold(over, key)
    if "class_path" in base and over.get("class_path", base["class_path"]) != base["class_path"]:
        takes = signature(locate(f"{key}.class_path", over["class_path"]))
        base = {"init_args": {name: node for name, node in base["init_args"].items() if takes.accepts(name)}}
    return base | over | {"init_args": overlay(base["init_args"], over["init_args"], key)}


def accepted(layer: dict[str, Any], component: dict[str, Any], key: str) -> dict[str, Any]:
    """The part of ``layer``, short keys for ``component``, that its class takes; nested components likewise."""
    takes = signature(locate(f"{key}.class_path", component["class_path"]))
    kept = {}
    for name, value in layer.items():
        inner = component["init_args"].get(name)
        if isinstance(value, dict) and is_component(inner):
            kept[name] = accepted(value, inner, f"{key}.{name}")
        elif not isinstance(value, dict) and name in takes.parameters:
            kept[name] = value
    return kept


def expand(node: Any, key: str, folder: str = "") -> Any:
    """Put every fragment in the place of its name, to any depth.

    Inside a component a name stands for a fragment where a folder is called like the init arg: ``partition: iid``.

    Raises:
        ConfigError: a name in ``folder`` that no fragment has.
    """
    if not isinstance(node, dict):
        return node
    if folder and "name" in node:
        rest = {name: value for name, value in node.items() if name != "name"}
        node = merge(shipped.fragment(key, node["name"], folder), fold(rest, key), key)
    if is_component(node):
        node = fold(node, key)
        return node | {"init_args": _expand_each(node["init_args"], key)}
    return _expand_each(node, key)


def _expand_each(nodes: dict[str, Any], key: str) -> dict[str, Any]:
    expanded = {}
    for name, node in nodes.items():
        folder = name if name in shipped.folders() else ""
        if isinstance(node, str) and folder and ("." in node or node in shipped.names(folder)):
            node = named(node)
        expanded[name] = expand(node, f"{key}.{name}", folder)
    return expanded


FOLDERS = {
    "data": "data",
    "model": "model",
    "scheduler": "scheduler",
    "budget": "budget",
    "aggregator": "aggregator",
    "server_optimizer": "server_optimizer",
    "round_average": "round_average",
    "sampler": "sampler",
    "fleet": "fleet",
}
# null is for none, or for the method's own average.
OPTIONAL = {"aggregator", "server_optimizer", "round_average", "fleet"}


def compose(config: Mapping[str, Any], arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Resolve ``config`` with the command line's ``key=value`` arguments on top; a pure function.

    From weak to strong: the schema's defaults, those that the data set brings, the fragments that are named, what the
    method sets of the model, ``compat``, the config, the arguments.

    Returns:
        Plain values. Every component is ``{class_path, init_args}``, with the ``name`` of its fragment if it is one;
        the scheduler's name is ``method``. Composing the result again gives the same.

    Raises:
        ConfigError: an unknown key or name, a value of the wrong type or out of range.
    """
    resolved = typed(_expanded(config, arguments))
    if resolved["clients"] is not None and resolved["cohort"] > resolved["clients"]:
        raise ConfigError("cohort", resolved["cohort"], f"at most the number of clients, {resolved['clients']}")
    alpha, default = resolved["alpha"], KEYS["alpha"].default
    if alpha != default and not _takes(resolved["data"], "alpha", alpha):
        raise ConfigError("alpha", alpha, f"the default, {default}: nothing in data takes it")
    return resolved


def to_repeat(config: Mapping[str, Any], arguments: Sequence[str] = ()) -> dict[str, Any]:
    """What ``compose`` resolves: a value that follows another key still does, so that it follows a new one, too."""
    return referring(_expanded(config, arguments))


def _expanded(config: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    file, given = _normal(config), _normal(read_dotlist(arguments))
    user = overlay(_without_method(file) if _names_another(given, file) else file, given)
    compat = shipped.fragment("compat", user["compat"], "compat") if user.get("compat") is not None else {}
    for_tiers, tiered = compat.pop("tiers", {}), _tiered(_section("budget", user, {}, {"name": "by_share"}))
    compat = overlay(compat, for_tiers) if tiered else compat
    data = _section("data", user, compat, {"name": "digits"})
    defaults = data.pop("defaults", {})
    scheduler = _section("scheduler", user, compat)
    of_method = scheduler.pop("defaults", {})
    for_tiers = of_method.pop("tiers", {})
    of_method = overlay(overlay(of_method, for_tiers if tiered else {}), compat)  # for components that take it
    model = _section("model", user, of_method, {"name": defaults.pop("model", None)})
    settings = overlay(overlay(defaults, _without_sections(compat)), _without_sections(user))
    components = {
        "data": data,
        "model": {"exclude": [], "exclude_first_last": False} | model,
        "scheduler": scheduler,
        "budget": _section("budget", user, compat, {"name": "by_share"}),
        # Averaging masked models as if they were whole would shrink the weights that only large devices hold.
        "aggregator": _optional("aggregator", user, of_method, {"name": "masked" if tiered else "fedavg"}),
        "server_optimizer": _optional("server_optimizer", user, of_method, {"name": "momentum"}),
        "round_average": _optional("round_average", user, of_method, {"name": "polynomial"}),
        "sampler": _section("sampler", user, compat, {"name": "uniform"}),
        "fleet": _optional("fleet", user, compat, {"name": "mixed"}),
    }
    return settings | components


def label(config: Mapping[str, Any], section: str) -> str:
    """What to call a component of a resolved config: its fragment's name, else its class's."""
    named = config[section].get("name")
    return named or config[section]["class_path"].rpartition(".")[2]


def _names_another(given: Mapping[str, Any], file: Mapping[str, Any]) -> bool:
    """Whether arguments name another method than that of a run's own config, in which all sections are there."""
    new, old = given.get("scheduler", {}), file.get("scheduler", {})
    named = bool({"name", "class_path"} & new.keys()) and "name" in old
    return named and FOLDERS.keys() <= file.keys() and new.get("name") != old["name"]


def _without_method(file: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without what its method has brought to other sections: the next one brings its own."""
    sections = ("scheduler", "data", "model")
    names = {key: {part: file[key][part] for part in ("name", "class_path") if part in file[key]} for key in sections}
    alone = _expanded(names | {"compat": file["compat"], "budget": file["budget"]}, [])
    kept, model, brought = dict(file), dict(file["model"]), alone["model"]["init_args"]
    arguments = model.get("init_args", {}).items()
    model["init_args"] = {key: value for key, value in arguments if key not in brought or value != brought[key]}
    for key in ("aggregator", "server_optimizer", "round_average"):
        if file[key] == alone[key]:
            del kept[key]
    return kept | {"model": model}


def _takes(component: object, name: str, value: object) -> bool:
    """Whether it has an init arg of this name and value, or one of its own components has."""
    items = component.items() if isinstance(component, dict) else ()
    return any((key == name and found == value) or _takes(found, name, value) for key, found in items)


def _without_sections(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in layer.items() if key not in FOLDERS}


def _normal(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer in which sections are mappings and ``method`` is the scheduler's name."""
    copy = deepcopy(dict(layer))
    for section in FOLDERS:
        if section in copy and not isinstance(copy[section], dict):
            name = copy.pop(section)
            copy |= {section: named(name)} if name is not None else {section: None} if section in OPTIONAL else {}
    return copy


def _tiered(budget: Mapping[str, Any]) -> bool:
    """Whether clients may have different budgets."""
    by_share = shipped.fragment("budget", "by_share", "budget")["class_path"]
    tiers = budget["init_args"].get("tiers")
    return budget["class_path"] != by_share or (isinstance(tiers, list) and len(tiers) > 1)


def _optional(
    section: str, user: Mapping[str, Any], compat: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any] | None:
    """A component that is there only if the user or the method asks for it."""
    wanted = user[section] is not None if section in user else section in compat
    return _section(section, user, compat, default) if wanted else None


def _section(
    section: str, user: Mapping[str, Any], compat: Mapping[str, Any], default: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One component: its fragment, what ``compat`` sets of it, what the user does; all names expanded.

    The user's fragment or class goes before the fragment of ``compat``, and that before the ``default``.
    """
    key = section
    official = dict(compat.get(section, {}))
    named = {"name": official.pop("name")} if "name" in official else default or {}
    given = dict(user.get(section, {}))
    given = given if "name" in given or "class_path" in given else dict(named) | given
    name = given.pop("name", None if "class_path" in given else named.get("name"))
    if name is None and "class_path" not in given:
        raise ConfigError(key, None, one_of(None, shipped.names(FOLDERS[section])))
    base = {} if name is None else expand(shipped.fragment(key, name, FOLDERS[section]), section)
    full = expand(merge(base, given, section), section)
    if official:
        official = accepted(official, full, section)
        full = expand(merge(merge(base, official, section), given, section), section)
    if name is not None and full["class_path"] == base["class_path"]:
        full["name"] = name
    return full
