"""The shipped config by which an experiment is called, and the settings that follow from this name."""

import json
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from flash_pl.compare.runs import Run
from flash_pl.compare.schema import SECTIONS
from flash_pl.config import compose, experiment, label, shipped
from flash_pl.config.components import expand
from flash_pl.config.given import OPTIONAL
from flash_pl.config.given import SECTIONS as COMPONENTS
from flash_pl.config.keys import keys_of
from flash_pl.errors import ConfigError

Settings = dict[str, Any]

TOP_LEVEL = {*keys_of("")} - {*COMPONENTS, "callbacks", "logger"}
OTHERS = [section for section in COMPONENTS if section not in SECTIONS]
CLASSES = {f"{section}.class_path" for section in OTHERS}


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Return all settings of the experiment, and the number of rounds and the metric by which runs are compared."""
    return dict(experiment(config)) | {"rounds": config["rounds"], "trainer.monitor": config["trainer"].get("monitor")}


def shown_settings(config: Mapping[str, Any]) -> Settings:
    """Return the settings, with the names of fragments for classes: ``{"fleet.class_path": "mixed"}``.

    A component that may be absent is null then. Data set, model and scheduler keep their classes.
    """
    settings = settings_of(config)
    for section in OTHERS:
        if config.get(section) is not None:
            settings[f"{section}.class_path"] = label(config, section)
        elif section in OPTIONAL:
            settings[f"{section}.class_path"] = None
    return settings


def shipped_name(run: Run) -> tuple[str, Settings | None]:
    """Return the name of a run's shipped config and the settings that follow from it.

    It is the shipped config with the run's scheduler of which the run has all settings; without one, it is the
    scheduler. The settings also follow from the names of the run's other components, from ``compat``, and inside a
    component from keys of the top level. They are None if a name is no longer shipped.

    >>> from pathlib import Path
    >>> from flash_pl.config import read_config
    >>> run = Run(Path("a"), compose(read_config("hetero_jmwst"), ["density=0.1"]), metrics={}, result={}, consensus={})
    >>> shipped_name(run)[0]
    'hetero_jmwst'
    """
    scheduler = run.config["scheduler"].get("name")
    configs = {name: config for name, config in _configs().items() if scheduler and config["scheduler"] == scheduler}
    # Without a name for the scheduler there is no config; the stand-in brings nothing to other components.
    plain = configs.pop(scheduler, {"scheduler": scheduler or "spdst"})
    name, own = run.names["scheduler"], shown_settings(run.config)
    try:
        defaults = _defaults(run, plain)
        for other, config in configs.items():
            sections = tuple(f"{section}." for section in config if section != "scheduler")
            if not any(own.get(key) != value for key, value in defaults.items() if key.startswith(sections)):
                continue
            brought = _defaults(run, config)
            differing = [key for key in brought if key not in defaults or defaults[key] != brought[key]]
            if differing and all(key in own and own[key] == brought[key] for key in differing):
                return other, brought
    except ConfigError:  # a fragment that no longer exists
        return name, None
    return name, defaults


@cache
def _configs() -> dict[str, dict[str, Any]]:
    return {name: shipped.read_config(name) for name in shipped.names()}


def _defaults(run: Run, config: Mapping[str, Any]) -> Settings:
    """The settings that a config brings to a run with certain names of components and keys of the top level."""
    names: dict[str, Any] = {**config, "compat": run.config.get("compat")}
    names |= {section: run.config[section]["name"] for section in SECTIONS[:2] if run.config[section].get("name")}
    composed = _composed(names)
    by_names, top_level = shown_settings(composed), _top_level(run)
    others = {section: name for section in OTHERS if (name := _other_name(run.config, composed, section))}
    by_top_level = shown_settings(_composed(names | top_level | others))
    brought = {key: by_names[key] for key in by_names if key in top_level or key in CLASSES}
    budget = run.config["budget"]
    tiers = budget.get("init_args", {}).get("tiers")
    if budget.get("name") and tiers is not None and tiers != by_top_level.get("budget.init_args.tiers"):
        # Tiers are chosen, but what they bring, such as an aggregator, is not.
        tiered = names | {"budget": {"name": budget["name"], "tiers": tiers}}
        brought |= {key: value for key, value in shown_settings(_composed(tiered)).items() if key in CLASSES}
        brought |= {key: value for key, value in by_names.items() if key == "budget.class_path"}
        of_budget = {key: value for key, value in by_top_level.items() if key.startswith("budget.")}
        by_top_level = shown_settings(_composed(tiered | top_level | others | {"budget": tiered["budget"]})) | of_budget
    return by_top_level | brought


def _composed(config: Mapping[str, Any]) -> dict[str, Any]:
    return _composed_json(json.dumps(config, sort_keys=True))


@lru_cache(maxsize=256)  # the runs of a comparison share most names
def _composed_json(config: str) -> dict[str, Any]:
    return compose(json.loads(config))


def _other_name(config: Mapping[str, Any], composed: Mapping[str, Any], section: str) -> str | None:
    """The fragment of a component of ``config``, None if it is the one of ``composed``."""
    name = (config.get(section) or {}).get("name")
    return None if name == (composed[section] or {}).get("name") else name


def _top_level(run: Run) -> Settings:
    """The keys of the top level in which ``compose`` finds no class and no reference."""
    return {
        key: value
        for key, value in settings_of(run.config).items()
        if key in TOP_LEVEL and not isinstance(value, dict | list) and "${" not in str(value)
    }


def component_name(config: Mapping[str, Any], key: str, class_path: str) -> str:
    """Return the name of a component inside of another one: its fragment's, else its class's.

    A component has the name of a fragment that is the only one with its class, or that is equal to it.

    Args:
        config: resolved.
        key: such as ``scheduler.init_args.voter.class_path``.

    >>> config = compose({"scheduler": "jmwst"}, ["scheduler.voter=consensus"])
    >>> component_name(config, "scheduler.init_args.voter.class_path", "flash_pl.server.ConsensusVote")
    'consensus'
    """
    *parents, kind = key.removesuffix(".class_path").split(".")
    node: Any = config
    for parent in [*parents, kind]:
        node = node[parent]
    names = shipped.names(kind) if kind in shipped.folders() else []
    fragments = {name: shipped.fragment(kind, name, kind) for name in names}
    alike = {name: one for name, one in fragments.items() if one.get("class_path") == class_path}
    equal = [name for name, one in alike.items() if _without_names(expand(one, kind)) == _without_names(node)]
    found = [*alike] if len(alike) == 1 else equal
    return found[0] if found else class_path.rpartition(".")[2]


def _without_names(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {key: _without_names(item) for key, item in node.items() if key != "name" or "class_path" not in node}
