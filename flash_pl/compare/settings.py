"""By what runs differ: the keys of their configs, in short."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from flash_pl.compare.runs import Run
from flash_pl.config import compose, experiment
from flash_pl.errors import ConfigError

Settings = dict[str, Any]
# Shown by names of their own: the density, and the components after which groups are called.
NAMED = {"density", "data.class_path", "model.class_path", "scheduler.class_path"}


def identity(run: Run, fixed: bool = False) -> Settings:
    """The dotted keys and values that two runs must share to be the same experiment under another seed.

    Densities of tiers are relative to the run's. What is null is left out: an older config may lack the key.

    Args:
        fixed: a component's seed that is the run's own does not follow it, but is that in all runs.
    """
    keys = _keys(run.config)
    found = {key: _relative(value, run.config["density"]) for key, value in keys.items() if value is not None}
    for key in [key for key, value in found.items() if key.rpartition(".")[2] == "seed" and value == run.seed]:
        if key == "seed" or not fixed:
            del found[key]  # a data set draws its partition from the same seed
    return found | {"density": run.density, "trainer.monitor": run.monitor}


def chosen(run: Run) -> Settings:
    """The part of the ``identity`` that does not follow from data set, model, method, ``compat`` and, inside of
    components, from the keys of the top level."""
    names: dict[str, Any] = {key: _named(run.config[key]) for key in ("data", "model", "scheduler")}
    names |= {"compat": run.config.get("compat")}
    top = {key: value for key, value in _keys(run.config).items() if "." not in key and not isinstance(value, dict)}
    try:
        usual = _keys(compose(top | names)) | {key: value for key, value in _keys(compose(names)).items() if key in top}
        del usual["compat"]
    except ConfigError:  # a class or a fragment that is not here any more
        usual = {}
    density = run.config["density"]
    return {
        key: value
        for key, value in identity(run).items()
        if key not in usual or value != _relative(usual[key], density)
    }


def differing(runs: Sequence[Run]) -> list[Settings]:
    """For each run of another experiment, the keys by which somebody made them differ, with the values there.

    What follows from another data set, model or method is no difference of its own; a default is shown beside other
    values for the same component only. A component's seed that is the run's own follows it. Keys are as short as on the
    command line: ``scheduler.prune_rate``.
    """
    identities, choices = [identity(run) for run in runs], [chosen(run) for run in runs]
    keys = dict.fromkeys(key for one in identities for key in one if key not in NAMED)
    kept = [key for key in keys if _differs(key, choices) and _differs(key, identities)]
    found: list[Settings] = []
    for run, known, choice in zip(runs, identities, choices, strict=True):
        values, shown = _keys(run.config), dict[str, Any]()
        for key in kept:
            own = _components(key, run, values)
            alike = [one for other, one in zip(runs, identities, strict=True) if _components(key, other, one) == own]
            follows = any(f"{parent}.class_path" in choice for parent in _parents(key))
            if values.get(key) is not None and key not in known:  # a seed that follows
                continue
            if key in values and (_differs(key, alike) or (key in choice and not follows)):
                shown[shorten(key)] = _short_value(key, values[key])
        found.append(shown)
    return found


def shared(runs: Sequence[Run]) -> Settings:
    """The keys that have the same value in all runs; what a component repeats of the top level is left out."""
    first, *others = [_keys(run.config) | {"density": run.density} for run in runs]
    same = {key: value for key, value in first.items() if all(key in one and one[key] == value for one in others)}
    return {shorten(key): value for key, value in same.items() if not _repeats(key, first)}


def shorten(key: str) -> str:
    """As on the command line.

    >>> shorten("scheduler.init_args.voter.class_path")
    'scheduler.voter'
    """
    return key.replace(".init_args", "").removesuffix(".class_path")


def tails(keys: Sequence[str]) -> dict[str, str]:
    """Each key with the shortest of its ends that no other key has.

    >>> tails(["scheduler.prune_rate", "scheduler.sensitivity.prune_rate", "lr"])
    {'scheduler.prune_rate': 'scheduler.prune_rate',
     'scheduler.sensitivity.prune_rate': 'sensitivity.prune_rate', 'lr': 'lr'}
    """

    def end(key: str, length: int) -> str:
        return ".".join(key.split(".")[-length:])

    def shortest(key: str) -> str:
        lengths = range(1, key.count(".") + 1)
        alone = (end(key, n) for n in lengths if [end(other, n) for other in keys].count(end(key, n)) == 1)
        return next(alone, key)

    return {key: shortest(key) for key in keys}


def write(value: object) -> str:
    """A value as YAML has it, on one line.

    >>> write(0.05), write("iid"), write([{"share": 1.0}, None])
    ('0.05', 'iid', '[{share: 1.0}, null]')
    """
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return value if isinstance(value, str) else text.removesuffix("...\n").strip()


def _keys(config: Mapping[str, Any]) -> Settings:
    return dict(experiment(config)) | {"rounds": config["rounds"], "trainer.monitor": config["trainer"].get("monitor")}


def _named(component: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": component["name"]} if "name" in component else {"class_path": component.get("class_path")}


def _differs(key: str, settings: Sequence[Settings]) -> bool:
    return len({write(one.get(key)) if key in one else None for one in settings}) > 1


def _components(key: str, run: Run, settings: Settings) -> list[object]:
    """What the components are, from the outermost to the innermost, in which ``key`` is."""
    section = key.partition(".")[0]
    outermost = run.names.get("method" if section == "scheduler" else section)
    return [outermost, *(settings.get(f"{parent}.class_path") for parent in _parents(key))]


def _parents(key: str) -> list[str]:
    """The components inside of sections in which a key is.

    >>> _parents("scheduler.init_args.voter.init_args.agreement")
    ['scheduler.init_args.voter']
    """
    parts = key.split(".init_args.")
    return [".init_args.".join(parts[:end]) for end in range(2, len(parts))]


def _repeats(key: str, settings: Settings) -> bool:
    """Whether a component repeats a key of the top level: ``data.init_args.batch_size``."""
    name = key.rpartition(".")[2]
    return name != key and name in settings and settings[name] == settings[key]


def _relative(value: Any, density: float) -> Any:
    """A value in which the densities of tiers are shares of ``density``."""
    if isinstance(value, list):
        return [_relative(item, density) for item in value]
    if isinstance(value, dict) and isinstance(value.get("density"), int | float):
        return value | {"density": round(value["density"] / density, 9)}
    return value


def _short_value(key: str, value: object) -> object:
    return str(value).rpartition(".")[2] if key.endswith(".class_path") else value
