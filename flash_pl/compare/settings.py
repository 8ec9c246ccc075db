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
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flash_pl.compare.runs import Run
from flash_pl.compare.schema import SECTIONS
from flash_pl.compare.shipped_name import Settings, component_name, settings_of, shipped_name, shown_settings
from flash_pl.yaml12 import as_yaml_line

# The table has columns for these settings, so they are not listed among the differences.
COLUMNS = {"density", *(f"{section}.class_path" for section in SECTIONS)}


def identity(run: Run, keep_component_seeds: bool = False) -> Settings:
    """Return the settings that are equal in all runs of one experiment.

    The run's seed is left out, and so is the seed of a component that equals it: by default a data set draws its
    partition from the run's seed. Keys with the value null are left out, because an older config may lack them.
    Densities of tiers are divided by the density of the run.

    Args:
        keep_component_seeds: keep the seed of a component that equals the run's seed, for runs whose data set has the
            same seed in all of them.

    >>> from pathlib import Path
    >>> from flash_pl.config import compose
    >>> run = Run(Path("runs/a"), compose({"scheduler": "jmwst"}, ["seed=3"]), metrics={}, result={}, consensus={})
    >>> settings = identity(run)
    >>> settings["scheduler.init_args.prune_rate"], "seed" in settings, "data.init_args.seed" in settings
    (0.25, False, False)
    >>> identity(run, keep_component_seeds=True)["data.init_args.seed"]
    3
    """
    density = run.config["density"]
    settings = {key: _relative(value, density) for key, value in settings_of(run.config).items() if value is not None}
    seeds = [key for key, value in settings.items() if key.rpartition(".")[2] == "seed" and value == run.seed]
    for key in seeds:
        if key == "seed" or not keep_component_seeds:
            del settings[key]
    return settings | {"density": run.density, "trainer.monitor": run.monitor}


def chosen_settings(run: Run) -> Settings:
    """Return the part of the ``identity`` that somebody chose.

    Not chosen is a value that follows from the run's shipped config, from the names of data set, model and other
    components, from ``compat``, or inside a component from a key of the top level, as ``data.init_args.batch_size``
    follows ``batch_size``. Of a component without a name, such as a class of the user's own, every init arg is chosen:
    to know its defaults would mean to import it, and a comparison imports nothing that a config names. Components
    other than data set, model and scheduler are called by their fragment, and null if the config has taken them away.

    >>> from pathlib import Path
    >>> from flash_pl.config import compose
    >>> config = compose({"scheduler": "jmwst"}, ["scheduler.prune_rate=0.3", "batch_size=8", "fleet=mixed"])
    >>> chosen = chosen_settings(Run(Path("runs/a"), config, metrics={}, result={}, consensus={}))
    >>> {key: value for key, value in chosen.items() if key not in ("density", "trainer.monitor")}
    {'batch_size': 8, 'scheduler.init_args.prune_rate': 0.3, 'fleet.class_path': 'mixed'}
    """
    return _chosen(run, shipped_name(run)[1])


def _chosen(run: Run, defaults: Settings | None) -> Settings:
    shown, own = shown_settings(run.config), identity(run)
    own |= {key: shown[key] for key in shown if key in own or (shown[key] is None and (defaults or {}).get(key))}
    own = {key: _relative(value, run.config["density"]) for key, value in own.items()} | {"density": run.density}
    if defaults is None:
        return own
    defaults = {key: value for key, value in defaults.items() if key != "compat"}  # compat=official is always a choice
    unnamed = tuple(
        f"{section}.{part}"
        for section in SECTIONS
        if not run.config[section].get("name")
        for part in ("class_path", "init_args")
    )
    defaults = {key: value for key, value in defaults.items() if not key.startswith(unnamed)}
    return {
        key: value
        for key, value in own.items()
        if key not in defaults or value != _relative(defaults[key], run.config["density"])
    }


def differing_settings(runs: Sequence[Run]) -> list[Settings]:
    """Return, for one run of each experiment, the chosen settings that differ between the experiments.

    A setting that one experiment chose is also shown in the others that have the same component, where it has its
    default value. It is not shown in experiments with another component:

    >>> from pathlib import Path
    >>> from flash_pl.config import compose
    >>> def run(*arguments):
    ...     config = compose({"scheduler": "jmwst"}, arguments)
    ...     return Run(Path("runs/a"), config, metrics={}, result={}, consensus={})
    >>> differing_settings([run("scheduler.prune_rate=0.3"), run(), run("scheduler=nst")])
    [{'scheduler.prune_rate': 0.3}, {'scheduler.prune_rate': 0.25}, {}]

    The class of a component is shown by its name, and its settings are not shown where the class itself is a choice:

    >>> differing_settings([run("scheduler.voter=consensus"), run()])
    [{'scheduler.voter': 'consensus'}, {'scheduler.voter': 'magnitude'}]
    """
    experiments = [_Experiment.of(run) for run in runs]
    keys = dict.fromkeys(key for one in experiments for key in [*one.identity, *one.chosen] if key not in COLUMNS)
    varying = [
        key
        for key in keys
        if _differs(key, [one.chosen for one in experiments]) and _differs(key, [one.identity for one in experiments])
    ]
    return [
        {short_key(key): one.value(key) for key in keys if not _repeats_top_level(key, one.settings, keys)}
        for one in experiments
        for keys in [[key for key in varying if one.shows(key, beside=experiments)]]
    ]


@dataclass(frozen=True)
class _Experiment:
    """What ``differing_settings`` knows about an experiment."""

    config: Mapping[str, Any]
    name: str
    names: Mapping[str, str]
    settings: Settings
    identity: Settings
    chosen: Settings

    @classmethod
    def of(cls, run: Run) -> "_Experiment":
        name, defaults = shipped_name(run)
        settings = shown_settings(run.config)
        own = identity(run)
        own |= {key: settings[key] for key in own if key.endswith(".class_path")}
        return cls(run.config, name, run.names, settings, own, _chosen(run, defaults))

    def value(self, key: str) -> object:
        """Return a setting as it is shown; the class of a component by its name."""
        value = self.settings[key]
        if key.endswith(".class_path") and ".init_args." in key:
            return component_name(self.config, key, str(value))
        return value

    def shows(self, key: str, beside: Sequence["_Experiment"]) -> bool:
        """Return whether to show a setting that varies between this experiment and those ``beside`` it.

        A chosen value is shown, and a value of the shipped config beside another one of the same shipped config.
        """
        if key not in self.settings:
            return False
        if (
            key not in self.identity
            and key not in self.chosen
            and (
                key.endswith(".class_path") or self.settings[key] is not None  # a seed that equals the run's seed
            )
        ):
            return False
        same_component = [other.identity for other in beside if other._classes(key) == self._classes(key)]
        components = [key.partition(".")[0], *_components(key)]
        class_is_chosen = any(f"{component}.class_path" in self.chosen for component in components)
        is_class = key.endswith(".class_path") and ".init_args." not in key
        return _differs(key, same_component) or (key in self.chosen and (is_class or not class_is_chosen))

    def _classes(self, key: str) -> list[object]:
        """The names that bring a value of ``key``: of the shipped config for the top level, else of the components
        that contain it, from the outermost to the innermost.
        """
        section, _, rest = key.partition(".")
        if not rest or rest == "class_path":
            return [self.name]
        brought = (
            [self.names[section]] if section in self.names else [self.name, self.settings.get(f"{section}.class_path")]
        )
        return [*brought, *(self.settings.get(f"{name}.class_path") for name in _components(key))]


def shared_settings(runs: Sequence[Run]) -> Settings:
    """Return the settings that have the same value in all runs.

    A setting of a component that repeats a key of the top level is left out.

    >>> from pathlib import Path
    >>> from flash_pl.config import compose
    >>> run = Run(Path("runs/a"), compose({"scheduler": "jmwst"}), metrics={}, result={}, consensus={})
    >>> shared = shared_settings([run])
    >>> shared["batch_size"], shared["data"], "data.batch_size" in shared
    (16, 'flash_pl.data.Digits', False)
    """
    first, *others = [settings_of(run.config) | {"density": run.density} for run in runs]
    return {
        short_key(key): value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others) and not _repeats_top_level(key, first, first)
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


def _repeats_top_level(key: str, settings: Settings, among: Container[str]) -> bool:
    """Whether a setting inside a component has the value of a key of the top level, which is ``among`` others."""
    name = key.rpartition(".")[2]
    return name != key and name in among and name in settings and settings[name] == settings[key]


def _relative(value: Any, density: float) -> Any:
    """Return a setting in which the densities of tiers are divided by ``density``."""
    if isinstance(value, list):
        return [_relative(item, density) for item in value]
    if isinstance(value, dict) and isinstance(value.get("density"), int | float):
        return value | {"density": round(value["density"] / density, 9)}
    return value
