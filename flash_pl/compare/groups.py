"""Runs that differ only in their seed, together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flash_pl.compare.runs import Run
from flash_pl.compare.settings import Settings, differing, identity, tails, write

LONGEST = 60  # characters of a value in a label


@dataclass(frozen=True, eq=False)
class Group:
    """One experiment, a run a seed.

    ``settings`` are the keys, apart from data, model, method and density, by which it differs from the groups beside
    it; ``label`` is unique among those of the same data set.
    """

    name: str
    label: str
    settings: Settings
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """A run, for what is the same in all."""
        return self.runs[0]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


def group(runs: Iterable[Run]) -> tuple[list[Group], list[str]]:
    """The groups in the order of data sets, and of the runs in each; and a warning for every run whose seed its group
    has already."""
    members: dict[str, list[Run]] = {}
    warnings = []
    for run in runs:
        same = members.setdefault(_key(run), [])
        if (before := next((other for other in same if other.seed == run.seed), None)) is not None:
            warnings.append(f"{run.path}: the same experiment with the same seed {run.seed} as {before.path}; left out")
        else:
            same.append(run)
    for key, same in list(members.items()):
        # A partition of one seed, under several of the run: one of those is the same, and looks as if it followed.
        fixed = _key(same[0], fixed=True)
        if len(same) == 1 and fixed != key and all(run.seed != same[0].seed for run in members.get(fixed, same)):
            members[fixed].append(members.pop(key)[0])
    parts = [tuple(sorted(same, key=lambda run: run.seed)) for same in members.values()]
    order = list(dict.fromkeys(part[0].names["data"] for part in parts))
    return _named(sorted(parts, key=lambda part: order.index(part[0].names["data"]))), warnings


def _key(run: Run, fixed: bool = False) -> str:
    return write(sorted(identity(run, fixed).items()))


def _named(parts: Sequence[tuple[Run, ...]]) -> list[Group]:
    # Of a group in which a component keeps its seed, a run that has another one itself.
    firsts = [max(part, key=lambda run: len(identity(run))) for part in parts]
    found = differing(firsts)
    short = tails(list(dict.fromkeys(key for settings in found for key in settings)))
    densities = {run.density for run in firsts if run.density < 1}
    groups: list[Group] = []
    for part, run, settings in zip(parts, firsts, found, strict=True):
        beside = [other for other in firsts if other.names["data"] == run.names["data"]]
        values = {key: _short(value) for key, value in settings.items()}
        name = ", ".join([run.names["method"], *(f"{key}={value}" for key, value in values.items())])
        label = run.names["method"]
        label += f", d={run.density:g}" if len(densities) > 1 and run.density < 1 else ""
        label += f", {run.names['model']}" if len({other.names["model"] for other in beside}) > 1 else ""
        label += "".join(f", {short[key]}={value}" for key, value in values.items())
        taken = [one.label.partition(" #")[0] for one in groups if one.first.names["data"] == run.names["data"]]
        label += f" #{taken.count(label) + 1}" if label in taken else ""
        groups.append(Group(name, label, settings, part))
    return groups


def _short(value: object) -> str:
    text = write(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
