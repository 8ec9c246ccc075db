"""Groups of runs against each other: the numbers of the table, and which of them are best."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from flash_pl.compare.columns import Column, Unit, columns
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
        name = ", ".join([run.names["scheduler"], *(f"{key}={value}" for key, value in values.items())])
        label = run.names["scheduler"]
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


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation over ``n`` seeds, no deviation of a single one; beside them ``diverged`` seeds
    that are in neither. The mean of none is NaN."""

    mean: float
    std: float | None
    n: int
    diverged: int = 0

    @classmethod
    def of(cls, values: Sequence[float]) -> "Cell":
        """
        >>> Cell.of([1.0, 3.0])
        Cell(mean=2.0, std=1.4142135623730951, n=2, diverged=0)
        """
        finite = [value for value in values if math.isfinite(value)]
        mean = statistics.fmean(finite) if finite else math.nan
        std = statistics.stdev(finite) if len(finite) > 1 else None
        return cls(mean, std, len(finite), len(values) - len(finite))


def _other_rounds(runs: Sequence[Run], last: int) -> list[str]:
    """A warning if the accuracies are means over rounds that lie differently: of other lengths, or further back."""
    found = {rounds: run for run in runs if (rounds := tuple(run.last_filled(run.monitor, last)))}
    if len(found) < 2:
        return []
    spans = "; ".join(f"{len(rounds)} of the last {1 - min(rounds)} in {run.path}" for rounds, run in found.items())
    return [f"accuracies are means over different rounds, by trainer.eval_every and eval_last: {spans}"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What every format of the table, every figure and the report show; ``last`` as in ``columns``."""

    groups: Sequence[Group]
    columns: Sequence[Column]
    last: int
    failed: Sequence[str] = ()

    @classmethod
    def of(cls, runs: Iterable[Run], last: int, failed: Sequence[str] = ()) -> tuple["Comparison", list[str]]:
        """The comparison of at least one run, and warnings about runs that are left out or not there whole.

        Args:
            failed: names of runs that belong beside them and are not there.
        """
        groups, warnings = group(runs)
        kept = [run for one in groups for run in one.runs]
        warnings += [
            f"{run.path}: metrics.csv lacks the rounds of the run that it goes on from; bytes and FLOPs against dense "
            "are those of the others, and it has no wall clock"
            for run in kept
            if not run.whole
        ]
        return cls(groups, columns(kept, last), last, failed), warnings + _other_rounds(kept, last)

    @cached_property
    def data(self) -> list[str]:
        """The data sets."""
        return list(dict.fromkeys(one.first.names["data"] for one in self.groups))

    def cell(self, group: Group, column: Column) -> Cell | None:
        """None if no run of the group has a value."""
        values = [value for run in group.runs if (value := column.value(run)) is not None]
        return Cell.of(values) if values else None

    def unit(self, column: Column) -> Unit:
        """The unit in which the column reads well."""
        cells = [self.cell(group, column) for group in self.groups]
        return column.scale.fitting(cell.mean for cell in cells if cell is not None and cell.n)

    def text(self, group: Group, column: Column) -> str:
        """``83.5 ± 0.6`` in the column's ``unit``, ``-`` for nothing, ``83.5, 1 diverged`` or ``diverged`` where seeds
        have diverged."""
        cell = self.cell(group, column)
        if cell is None:
            return "-"
        unit = self.unit(column)
        if not cell.n:
            return "diverged"
        text = unit.write(cell.mean)
        if column.spread and cell.std is not None:
            text += f" ± {cell.std / unit.factor:.{unit.decimals(cell.mean)}f}"
        return f"{text}, {cell.diverged} diverged" if cell.diverged else text

    def is_best(self, group: Group, column: Column) -> bool:
        """Whether no other group with the same data set is better, as far as the table shows, and some is worse.

        A group of which a seed has diverged is never best.
        """
        beside = [one for one in self.groups if one.first.names["data"] == group.first.names["data"]]
        cells = {one.label: cell for one in beside if (cell := self.cell(one, column)) is not None}
        unit = self.unit(column)
        shown = {label: float(unit.write(cell.mean)) for label, cell in cells.items() if not cell.diverged}
        if column.better is None or group.label not in shown:
            return False
        best = (max if column.better == "high" else min)(shown.values())
        return shown[group.label] == best and (len(set(shown.values())) > 1 or len(shown) < len(cells))

    @property
    def about_accuracy(self) -> str:
        """How the accuracies came about."""
        rounds = "the last evaluated round"
        if self.last > 1:
            rounds = f"the last {self.last} evaluated rounds (or all, where there are fewer)"
        spread = "; mean ± sample standard deviation over seeds" if self.repeated else ""
        runs = [run for one in self.groups for run in one.runs]
        lost = any(run.mean_of_last(run.monitor, self.last) == math.inf for run in runs)
        ending = " Diverged: NaN or infinite in one of these rounds, and in no mean." if lost else ""
        return f"Accuracy is the mean over {rounds} of a run{spread}.{ending}"

    @property
    def about_costs(self) -> str:
        """How the costs came about."""
        return "Costs are means over seeds." if self.repeated else "Costs are those of the whole run."

    @property
    def about_failed(self) -> str:
        """Which runs are missing; empty if none is."""
        if not self.failed:
            return ""
        return f"Left out, failed: {'; '.join(self.failed)}. Means are over the other seeds."

    @property
    def repeated(self) -> bool:
        """Whether any group has several seeds."""
        return any(len(one.runs) > 1 for one in self.groups)
