"""From a config, its fragments and the command line to one resolved config."""

from collections.abc import Mapping, Sequence
from typing import Any

from flash_pl.config import shipped
from flash_pl.config.components import accepted, expand, merge, overlay, unfold
from flash_pl.config.given import SECTIONS, given_layer
from flash_pl.config.keys import KEYS
from flash_pl.config.misspelt import check_components
from flash_pl.config.names import one_of
from flash_pl.config.shipped import as_component
from flash_pl.errors import ConfigError, as_yaml


def compose(config: Mapping[str, Any], arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Resolve ``config`` with the command line's ``key=value`` arguments on top; a pure function.

    From weak to strong: the schema's defaults, the defaults of the data set, the fragments that are named, the defaults
    of the scheduler, ``compat``, the config, the arguments. A default cohort is at most the number of clients.

    Returns:
        Plain values. Every component is ``{class_path, init_args}``, with the ``name`` of its fragment if it has one.
        Composing the result again gives the same.

    Raises:
        ConfigError: an unknown key or name, a value of the wrong type or out of range.

    >>> config = compose({"scheduler": "nst"}, ["density=0.1", "scheduler.prune_rate=0.3"])
    >>> config["density"], config["scheduler"]["class_path"], config["scheduler"]["init_args"]["prune_rate"]
    (0.1, 'flash_pl.schedulers.NST', 0.3)
    """
    layer, given = given_layer(config, arguments)
    expanded = _expanded(layer)
    check_components(expanded)
    resolved = _with_cohort(_schema().typed(expanded), given)
    if (clients := _clients(resolved)) is not None and resolved["cohort"] > clients:
        problem = f"{resolved['cohort']} is more than the {clients} clients"
        raise ConfigError("cohort", problem, "give a smaller cohort, or more clients")
    alpha, default = resolved["alpha"], KEYS["alpha"].default
    if alpha != default and not _has_init_arg(resolved["data"], "alpha", alpha):
        raise ConfigError("alpha", f"{alpha} would have no effect: no component of data takes alpha", "leave it out")
    return resolved


def check_change(config: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Check the components of a config with the ``arguments`` on top, as ``compose`` does. No reference is resolved.

    Raises:
        ConfigError: a name that does not exist, or a value of the wrong type or out of range.

    >>> check_change({"scheduler": "nst", "data": "digits"}, ["scheduler.prune_rate=2"])
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: scheduler.prune_rate: 2 is not in (0, 1]
    """
    check_components(_expanded(given_layer(config, arguments)[0]))


def to_repeat(config: Mapping[str, Any], arguments: Sequence[str] = ()) -> dict[str, Any]:
    """The config that repeats a run, for its config.yaml.

    Like the result of ``compose``, but interpolations stay: ``${density}`` follows a new density. The section ``given``
    holds the values that the user's file and the arguments have set.
    """
    layer, given = given_layer(config, arguments)
    expanded = _expanded(layer)
    resolved, written = _schema().typed(expanded), _schema().referring(expanded)
    if (cohort := _with_cohort(resolved, given)["cohort"]) != resolved["cohort"]:
        written["cohort"] = cohort
    return written | {"given": given}


def about_cohort(config: Mapping[str, Any], arguments: Sequence[str] = ()) -> str:
    """A clause about a cohort that is smaller than its default, since there are fewer clients; else empty.

    >>> about_cohort({"scheduler": "nst"}, ["data.clients=3"])
    'cohort=3, the number of clients; the default is 5'
    """
    layer, given = given_layer(config, arguments)
    default = _schema().typed(_expanded(layer))
    cohort = _with_cohort(default, given)["cohort"]
    if cohort == default["cohort"]:
        return ""
    return f"cohort={cohort}, the number of clients; the default is {default['cohort']}"


def _with_cohort(resolved: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config, with a cohort that the user has not given reduced to the number of clients, if it is known."""
    clients = _clients(resolved)
    fits = clients is None or resolved["cohort"] <= clients
    return resolved if fits or "cohort" in given else resolved | {"cohort": clients}


def _clients(resolved: Mapping[str, Any]) -> int | None:
    """The number of clients of a resolved config; None if only the data know it."""
    clients = resolved["data"]["init_args"].get("clients", resolved["clients"])
    known = isinstance(clients, int) and not isinstance(clients, bool) and clients >= 1
    return clients if known else None


def _schema() -> Any:
    """The module of the typed keys. It imports OmegaConf, for which nobody waits who has misspelt a name."""
    from flash_pl.config import schema

    return schema


def label(config: Mapping[str, Any], section: str) -> str:
    """The name of a component of a resolved config: its fragment's name, else its class's."""
    name = config[section].get("name")
    return name or config[section]["class_path"].rpartition(".")[2]


def names_of(config: Mapping[str, Any]) -> dict[str, str]:
    """What a file says about the run of a resolved config that made it: scheduler, data, and the class of the model."""
    return {key: label(config, key) for key in ("scheduler", "data")} | {"model": config["model"]["class_path"]}


def _expanded(user: Mapping[str, Any]) -> dict[str, Any]:
    """All layers below and including the ``user``'s, merged, with every component in its full form."""
    compat = shipped.fragment("compat", user["compat"], "compat") if user.get("compat") is not None else {}
    compat_of_tiers, tiered = compat.pop("tiers", {}), _is_tiered(_section("budget", user, {}, {"name": "by_share"}))
    compat = overlay(compat, compat_of_tiers) if tiered else compat
    if (methods := compat.pop("schedulers", None)) and _section("scheduler", user, {}).get("name") not in methods:
        compat = {key: part for key, part in compat.items() if key not in ("scheduler", "aggregator")}
    data = _section("data", user, compat, {"name": "digits"})
    defaults = data.pop("defaults", {})
    scheduler = _section("scheduler", user, compat)
    of_scheduler = scheduler.pop("defaults", {})
    of_tiers = of_scheduler.pop("tiers", {})
    of_scheduler = overlay(overlay(of_scheduler, of_tiers if tiered else {}), compat)  # for components that take it
    model = _section("model", user, of_scheduler, {"name": defaults.pop("model", None)})
    settings = overlay(overlay(defaults, _without_sections(compat)), _without_sections(user))
    if "callbacks" in settings:
        settings["callbacks"] = _callbacks(settings["callbacks"])
    settings["logger"] = logger_nodes(settings.get("logger", KEYS["logger"].default))
    components = {
        "data": data,
        "model": {"include": [], "exclude": [], "exclude_first_last": False} | model,
        "scheduler": scheduler,
        "budget": _section("budget", user, compat, {"name": "by_share"}),
        # A plain mean over clients would shrink the weights that only the clients of large tiers have.
        "aggregator": _optional("aggregator", user, of_scheduler, {"name": "masked" if tiered else "fedavg"}),
        "server_optimizer": _optional("server_optimizer", user, of_scheduler, {"name": "momentum"}),
        "round_average": _optional("round_average", user, of_scheduler, {"name": "polynomial"}),
        "sampler": _section("sampler", user, compat, {"name": "uniform"}),
        "fleet": _optional("fleet", user, compat, {"name": "mixed"}),
    }
    return settings | components


def _without_sections(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in layer.items() if key not in SECTIONS}


def _is_tiered(budget: Mapping[str, Any]) -> bool:
    """Whether clients may have different budgets."""
    by_share = shipped.fragment("budget", "by_share", "budget")["class_path"]
    tiers = budget["init_args"].get("tiers")
    return budget["class_path"] != by_share or (isinstance(tiers, list) and len(tiers) > 1)


def _section(
    section: str, user: Mapping[str, Any], compat: Mapping[str, Any], default: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One component, all names expanded: its fragment, then the values of ``compat``, then those of the user.

    The fragment or class is the user's, else that of ``compat``, else the ``default``.
    """
    of_compat = dict(compat.get(section, {}))
    default = {"name": of_compat.pop("name")} if "name" in of_compat else dict(default or {})
    of_user = dict(user.get(section, {}))
    if "name" not in of_user and "class_path" not in of_user:
        of_user = default | of_user
    name = of_user.pop("name", None if "class_path" in of_user else default.get("name"))
    if name is None and "class_path" not in of_user:
        raise ConfigError(section, "nothing is named", one_of(None, shipped.names(section)))
    base = {} if name is None else expand(shipped.fragment(section, name, section), section)
    component = expand(merge(base, of_user, section), section)
    if of_compat:
        of_compat = accepted(of_compat, component, section)
        component = expand(merge(merge(base, of_compat, section), of_user, section), section)
    if name is not None and component["class_path"] == base["class_path"]:
        component["name"] = name
    return component


def _optional(
    section: str, user: Mapping[str, Any], compat: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any] | None:
    """A component that is there only if the user or the scheduler asks for it."""
    wanted = user[section] is not None if section in user else section in compat
    return _section(section, user, compat, default) if wanted else None


def _callbacks(callbacks: object) -> list[dict[str, Any]]:
    """The user's callbacks, each in its full form."""
    if not isinstance(callbacks, list):
        hint = "write a list, such as [my_file.MyCallback]"
        raise ConfigError("callbacks", f"{as_yaml(callbacks)} is not a list", hint)
    full = []
    for index, node in enumerate(callbacks):
        key, node = f"callbacks[{index}]", node if isinstance(node, dict) else as_component(node)
        if "class_path" not in node:
            hint = "write my_file.MyCallback, or {class_path: my_file.MyCallback, init_args: {...}}"
            raise ConfigError(key, f"{as_yaml(callbacks[index])} does not name a class", hint)
        full.append(expand(unfold(node, key), key))
    return full


def logger_nodes(value: Any) -> list[dict[str, Any]]:
    """The components of the loggers that a value of the key ``logger`` stands for, each in its full form.

    The value is a name, several names with commas, a component, or a list of names and components. ``true`` means the
    default logger. ``false`` and ``null`` mean no logger.

    Raises:
        ConfigError: another value, or a name that does not exist.

    >>> [node["name"] for node in logger_nodes("csv,mlflow")], logger_nodes(False)
    (['csv', 'mlflow'], [])
    >>> logger_nodes([{"name": "wandb", "project": "mine"}])[0]["init_args"]
    {'project': 'mine'}
    """
    if value is None or value is False:
        return []
    if value is True:
        value = KEYS["logger"].default
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    values = value if isinstance(value, list) else [value]
    return [_logger(value, "logger" if len(values) == 1 else f"logger[{index}]") for index, value in enumerate(values)]


def _logger(value: Any, key: str) -> dict[str, Any]:
    node = value if isinstance(value, dict) else as_component(value)
    if "class_path" not in node and not isinstance(node.get("name"), str):
        known = one_of(None, shipped.names("logger"))
        raise ConfigError(key, f"{as_yaml(value)} does not name a logger", f"{known}, or give a class_path")
    if "name" not in node:
        return expand(unfold(node, key), key)
    name = node["name"]
    return {"name": name} | expand(node, key, "logger")


def _has_init_arg(component: object, name: str, value: object) -> bool:
    """Whether a component, or one of its own components, has an init arg of this name and value."""
    items = component.items() if isinstance(component, dict) else ()
    return any((key == name and item == value) or _has_init_arg(item, name, value) for key, item in items)
