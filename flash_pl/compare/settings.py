"""The settings that tell experiments apart, and short names for them.

A resolved config has about a hundred keys, and most values follow from a few choices: ``scheduler=jmwst`` alone sets
all keys below ``scheduler``. Two experiments with different schedulers therefore differ in dozens of keys, but a table
should name only the choices. Three functions lead there:

1. ``identity``: all settings that must be equal for two runs to be repetitions of one experiment with other seeds.
2. ``chosen_settings``: the part of the identity that somebody chose.
3. ``differing_settings``: for each of several experiments, the chosen settings that are not the same in all.

Keys have the form of config.yaml, ``scheduler.init_args.voter.class_path``. Only ``differing_settings`` and
``shared_settings`` return short keys as on the command line, ``scheduler.voter``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flash_pl.compare.runs import Run
from flash_pl.compare.schema import SECTIONS
from flash_pl.config import compose, experiment
from flash_pl.config.given import SECTIONS as COMPONENTS
from flash_pl.config.keys import keys_of
from flash_pl.errors import ConfigError
from flash_pl.yaml12 import dump

Settings = dict[str, Any]
# The table has columns for these settings, so they are not listed among the differences.
COLUMNS = {"density", *(f"{section}.class_path" for section in SECTIONS)}

TOP_LEVEL = {*keys_of("")} - {*COMPONENTS, "callbacks", "logger"}


def identity(run: Run, keep_component_seeds: bool = False) -> Settings:
    """Return the settings that are equal in all runs of one experiment.

    The run's seed is left out, and so is the seed of a component that equals it: by default a data set draws its
    partition from the run's seed. Keys with the value null are left out, because an older config may lack them.
    Densities of tiers are divided by the density of the run.

    Args:
        keep_component_seeds: keep the seed of a component that equals the run's seed, for runs whose data set has the
            same seed in all of them.

    >>> from pathlib import Path
    >>> run = Run(Path("runs/a"), compose({"scheduler": "jmwst"}, ["seed=3"]), metrics={}, result={}, consensus={})
    >>> settings = identity(run)
    >>> settings["scheduler.init_args.prune_rate"], "seed" in settings, "data.init_args.seed" in settings
    (0.25, False, False)
    >>> identity(run, keep_component_seeds=True)["data.init_args.seed"]
    3
    """
    density = run.config["density"]
    settings = {key: _relative(value, density) for key, value in _settings(run.config).items() if value is not None}
    seeds = [key for key, value in settings.items() if key.rpartition(".")[2] == "seed" and value == run.seed]
    for key in seeds:
        if key == "seed" or not keep_component_seeds:
            del settings[key]
    return settings | {"density": run.density, "trainer.monitor": run.monitor}


def chosen_settings(run: Run) -> Settings:
    """Return the part of the ``identity`` that somebody chose.

    Not chosen is a value that follows from the names of data set, model and scheduler, from ``compat``, or inside a
    component from a key of the top level, as ``data.init_args.batch_size`` follows ``batch_size``. Of a component
    without a name, such as a class of the user's own, every init arg is chosen: to know its defaults would mean to
    import it, and a comparison imports nothing that a config names.

    >>> from pathlib import Path
    >>> config = compose({"scheduler": "jmwst"}, ["scheduler.prune_rate=0.3", "batch_size=8"])
    >>> chosen = chosen_settings(Run(Path("runs/a"), config, metrics={}, result={}, consensus={}))
    >>> {key: value for key, value in chosen.items() if key not in ("density", "trainer.monitor")}
    {'batch_size': 8, 'scheduler.init_args.prune_rate': 0.3}
    """
    named = {section: run.config[section]["name"] for section in SECTIONS if run.config[section].get("name")}
    # Without a name for the scheduler there is no config; the stand-in brings nothing to other components.
    names: dict[str, Any] = {"scheduler": "spdst"} | named | {"compat": run.config.get("compat")}
    top_level = {key: value for key, value in _settings(run.config).items() if _is_plain(key, value)}
    try:
        by_names = _settings(compose(names))
        by_top_level = _settings(compose(top_level | names))
    except ConfigError:  # a fragment that no longer exists
        return identity(run)
    defaults = by_top_level | {key: value for key, value in by_names.items() if key in top_level}
    del defaults["compat"]  # compat=official is always a choice
    unnamed = tuple(
        f"{section}.{part}" for section in SECTIONS if section not in named for part in ("class_path", "init_args")
    )
    defaults = {key: value for key, value in defaults.items() if not key.startswith(unnamed)}
    return {
        key: value
        for key, value in identity(run).items()
        if key not in defaults or value != _relative(defaults[key], run.config["density"])
    }


def differing_settings(runs: Sequence[Run]) -> list[Settings]:
    """Return, for one run of each experiment, the chosen settings that differ between the experiments.

    A setting that one experiment chose is also shown in the others that have the same component, where it has its
    default value. It is not shown in experiments with another component:

    >>> from pathlib import Path
    >>> def run(*arguments):
    ...     config = compose({"scheduler": "jmwst"}, arguments)
    ...     return Run(Path("runs/a"), config, metrics={}, result={}, consensus={})
    >>> differing_settings([run("scheduler.prune_rate=0.3"), run(), run("scheduler=nst")])
    [{'scheduler.prune_rate': 0.3}, {'scheduler.prune_rate': 0.25}, {}]

    The class of a component is shown by its name, and its settings are not shown where the class itself is a choice:

    >>> differing_settings([run("scheduler.voter=consensus"), run()])
    [{'scheduler.voter': 'ConsensusVote'}, {'scheduler.voter': 'MagnitudeVote'}]
    """
    experiments = [_Experiment.of(run) for run in runs]
    keys = dict.fromkeys(key for one in experiments for key in one.identity if key not in COLUMNS)
    varying = [
        key
        for key in keys
        if _differs(key, [one.chosen for one in experiments]) and _differs(key, [one.identity for one in experiments])
    ]
    return [
        {
            short_key(key): _class_name(key, experiment.settings[key])
            for key in varying
            if experiment.shows(key, beside=experiments)
        }
        for experiment in experiments
    ]


@dataclass(frozen=True)
class _Experiment:
    """What ``differing_settings`` knows about an experiment."""

    names: Mapping[str, str]
    settings: Settings
    identity: Settings
    chosen: Settings

    @classmethod
    def of(cls, run: Run) -> "_Experiment":
        return cls(run.names, _settings(run.config), identity(run), chosen_settings(run))

    def shows(self, key: str, beside: Sequence["_Experiment"]) -> bool:
        """Return whether to show a setting that varies between this experiment and those ``beside`` it."""
        if key not in self.settings:
            return False
        if self.settings[key] is not None and key not in self.identity:  # a seed that equals the run's seed
            return False
        same_component = [other.identity for other in beside if other._classes(key) == self._classes(key)]
        components = [key.partition(".")[0], *_components(key)]
        class_is_chosen = any(f"{component}.class_path" in self.chosen for component in components)
        return _differs(key, same_component) or (key in self.chosen and not class_is_chosen)

    def _classes(self, key: str) -> list[object]:
        """The classes of the components that contain ``key``, from the outermost to the innermost."""
        section = key.partition(".")[0]
        return [self.names.get(section), *(self.settings.get(f"{name}.class_path") for name in _components(key))]


def shared_settings(runs: Sequence[Run]) -> Settings:
    """Return the settings that have the same value in all runs.

    A setting of a component that repeats a key of the top level is left out.

    >>> from pathlib import Path
    >>> run = Run(Path("runs/a"), compose({"scheduler": "jmwst"}), metrics={}, result={}, consensus={})
    >>> shared = shared_settings([run])
    >>> shared["batch_size"], shared["data"], "data.batch_size" in shared
    (16, 'flash_pl.data.Digits', False)
    """
    first, *others = [_settings(run.config) | {"density": run.density} for run in runs]
    return {
        short_key(key): value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others) and not _repeats_top_level(key, first)
    }


def short_key(key: str) -> str:
    """Return the key as it is written on the command line.

    >>> short_key("scheduler.init_args.voter.class_path")
    'scheduler.voter'
    """
    return key.replace(".init_args", "").removesuffix(".class_path")


def unique_endings(keys: Sequence[str]) -> dict[str, str]:
    """Return for each key its shortest ending that no other key has.

    >>> unique_endings(["scheduler.prune_rate", "scheduler.sensitivity.prune_rate", "lr"])
    {'scheduler.prune_rate': 'scheduler.prune_rate',
     'scheduler.sensitivity.prune_rate': 'sensitivity.prune_rate', 'lr': 'lr'}
    """

    endings = {key: [key.split(".", cut)[-1] for cut in range(key.count("."), -1, -1)] for key in keys}
    counts = Counter(ending for several in endings.values() for ending in several)
    return {key: next((ending for ending in several if counts[ending] == 1), key) for key, several in endings.items()}


def as_yaml_line(value: object) -> str:
    """Return a value as one line of YAML.

    >>> as_yaml_line(0.05), as_yaml_line("iid"), as_yaml_line([{"share": 1.0}, None])
    ('0.05', 'iid', '[{share: 1.0}, null]')
    """
    if isinstance(value, str):
        return value
    return dump(value, flow=True)


def _settings(config: Mapping[str, Any]) -> Settings:
    """Return all settings of the experiment, and the number of rounds and the metric by which runs are compared."""
    return dict(experiment(config)) | {"rounds": config["rounds"], "trainer.monitor": config["trainer"].get("monitor")}


def _is_plain(key: str, value: object) -> bool:
    """Whether a setting is a key of the top level in which ``compose`` finds no class and no reference."""
    return key in TOP_LEVEL and not isinstance(value, dict | list) and "${" not in str(value)


def _class_name(key: str, value: object) -> object:
    """Return a class path without its module; other values are returned as they are."""
    return str(value).rpartition(".")[2] if key.endswith(".class_path") else value


def _differs(key: str, experiments: Sequence[Settings]) -> bool:
    """Return whether a setting has different values, or exists in only some of the experiments."""
    return len({_comparable(settings[key]) if key in settings else None for settings in experiments}) > 1


def _comparable(value: object) -> object:
    """A value that is equal only for the same value of the same type: 1 is not true, and not 1.0."""
    return as_yaml_line(value) if isinstance(value, list | dict) else (type(value), value)


def _components(key: str) -> list[str]:
    """Return the components inside of a section that contain ``key``.

    >>> _components("scheduler.init_args.voter.init_args.agreement")
    ['scheduler.init_args.voter']
    """
    parts = key.split(".init_args.")
    return [".init_args.".join(parts[:end]) for end in range(2, len(parts))]


def _repeats_top_level(key: str, settings: Settings) -> bool:
    name = key.rpartition(".")[2]
    return name != key and name in settings and settings[name] == settings[key]


def _relative(value: Any, density: float) -> Any:
    """Return a setting in which the densities of tiers are divided by ``density``."""
    if isinstance(value, list):
        return [_relative(item, density) for item in value]
    if isinstance(value, dict) and isinstance(value.get("density"), int | float):
        return value | {"density": round(value["density"] / density, 9)}
    return value
