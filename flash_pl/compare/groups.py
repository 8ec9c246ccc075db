"""Groups of runs that repeat one experiment with different seeds, and the names of these groups."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from flash_pl.compare.runs import Run
from flash_pl.compare.settings import differing_settings, identity, unique_endings
from flash_pl.compare.shipped_name import Settings, shipped_name
from flash_pl.errors import printable
from flash_pl.yaml12 import as_short_line, as_yaml_line

LONGEST_VALUE = 60  # characters of a value in a name
MOST_SETTINGS = 20  # in a name


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one experiment, one run per seed.

    Args:
        config: the name of the shipped config that the runs have, such as ``hetero_jmwst``; else of their scheduler.
        name: the ``config`` and the ``settings``, such as ``jmwst, scheduler.prune_rate=0.3``.
        label: a short name for figures, such as ``jmwst, prune_rate=0.3``; unique among the groups of a data set.
        settings: the chosen settings that differ between the groups; data set, model, scheduler and density are not
            among them.
        runs: in the order of their seeds.
    """

    config: str
    name: str
    label: str
    settings: Settings
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run with the lowest seed, for everything that is the same in all runs."""
        return self.runs[0]

    @property
    def data(self) -> str:
        """The name of the data set."""
        return self.first.names["data"]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs."""
        return [run.seed for run in self.runs]


def group_runs(runs: Iterable[Run]) -> tuple[list[Group], list[str]]:
    """Return the groups and the warnings about runs that are left out.

    Groups and data sets are in the order in which ``runs`` first has them; groups of the same data set are neighbors.
    Of several runs with the same experiment and seed, the first one is kept.

    >>> from pathlib import Path
    >>> from flash_pl.config import compose
    >>> def run(*arguments):
    ...     config = compose({"scheduler": "jmwst"}, arguments)
    ...     return Run(Path("runs/a"), config, metrics={}, result={}, consensus={})
    >>> groups, warnings = group_runs([run("seed=1"), run("seed=2"), run("lr=0.05"), run("seed=2")])
    >>> [(group.label, group.seeds) for group in groups]
    [('jmwst, lr=0.1', [1, 2]), ('jmwst, lr=0.05', [1])]
    >>> warnings
    ['runs/a: left out, because runs/a is the same experiment with the same seed 2']
    """
    by_identity: dict[str, list[Run]] = {}
    warnings = []
    for run in runs:
        group = by_identity.setdefault(_identity_text(run), [])
        earlier = next((other for other in group if other.seed == run.seed), None)
        if earlier is None:
            group.append(run)
        else:
            same = f"{earlier.path} is the same experiment with the same seed {run.seed}"
            warnings.append(f"{run.path}: left out, because {same}")
    _join_fixed_partitions(by_identity)
    groups = [tuple(sorted(group, key=lambda run: run.seed)) for group in by_identity.values()]
    data_sets = list(dict.fromkeys(group[0].names["data"] for group in groups))
    return _named(sorted(groups, key=lambda group: data_sets.index(group[0].names["data"]))), warnings


def _identity_text(run: Run, keep_component_seeds: bool = False) -> str:
    return as_yaml_line(sorted(identity(run, keep_component_seeds).items()))


def _join_fixed_partitions(by_identity: dict[str, list[Run]]) -> None:
    """Move a run with ``seed=2 data.seed=2`` to the runs with other seeds and ``data.seed=2``.

    If the data set of an experiment keeps one seed, this seed can be the run's seed in one of the runs. Its
    ``identity`` leaves ``data.seed`` out then, as if the partition followed the run's seed, and the run is alone in
    its group.
    """
    for key, group in list(by_identity.items()):
        run = group[0]
        target = by_identity.get(_identity_text(run, keep_component_seeds=True), [])
        if len(group) == 1 and target and all(other.seed != run.seed for other in target):
            target.append(by_identity.pop(key)[0])


def _named(groups: Sequence[tuple[Run, ...]]) -> list[Group]:
    # The identity of a run leaves out a seed of the data set that equals the run's seed: take a run that has it.
    representatives = [max(group, key=lambda run: len(identity(run))) for group in groups]
    differences = differing_settings(representatives)
    endings = unique_endings(list(dict.fromkeys(key for settings in differences for key in settings)))
    several_densities = len({run.density for run in representatives if run.density < 1}) > 1
    named: list[Group] = []
    for runs, run, settings in zip(groups, representatives, differences, strict=True):
        data, model, config = run.names["data"], run.names["model"], shipped_name(run)[0]
        models = {other.names["model"] for other in representatives if other.names["data"] == data}
        shown = islice(settings.items(), MOST_SETTINGS)
        values = {key: _shortened(as_short_line(value)) for key, value in shown}
        others = [f"and {len(settings) - MOST_SETTINGS} others"] if len(settings) > MOST_SETTINGS else []
        name = ", ".join([config, *(f"{key}={value}" for key, value in values.items()), *others])
        parts = [config]
        if several_densities and run.density < 1:
            parts.append(f"d={run.density:g}")
        if len(models) > 1:
            parts.append(model)
        parts += [f"{endings[key]}={value}" for key, value in values.items()]
        label = ", ".join(parts + others)
        taken = [group.label.partition(" #")[0] for group in named if group.data == data]
        if label in taken:
            label += f" #{taken.count(label) + 1}"
        named.append(Group(config, name, label, settings, runs))
    return named


def _shortened(text: str) -> str:
    text = printable(text[: LONGEST_VALUE + 1])
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
