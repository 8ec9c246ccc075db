"""The numbers of a comparison: mean and standard deviation of every group in every column, and the best ones."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

from flash_pl.compare.columns import (
    PERCENT,
    Column,
    Unit,
    columns_of,
    monitored_metrics,
    scale_of_metric,
    title_of,
)
from flash_pl.compare.fairness import Inequality, inequalities
from flash_pl.compare.groups import Group, group_runs
from flash_pl.compare.runs import Run
from flash_pl.errors import ConfigError


@dataclass(frozen=True)
class Statistics:
    """A number of an experiment over its seeds.

    Args:
        mean: over the seeds that have not diverged; NaN if all have.
        std: the sample standard deviation over these seeds; None for fewer than two.
        n: the number of these seeds.
        diverged: the number of the other seeds.
    """

    mean: float
    std: float | None
    n: int
    diverged: int = 0

    @classmethod
    def of(cls, values: Sequence[float]) -> "Statistics":
        """Return the statistics of one value per seed; a value that is not finite is one that diverged.

        >>> Statistics.of([1.0, 3.0, math.inf])
        Statistics(mean=2.0, std=1.4142135623730951, n=2, diverged=1)
        """
        finite = [value for value in values if math.isfinite(value)]
        mean = fmean(finite) if finite else math.nan
        std = stdev(finite) if len(finite) > 1 else None
        return cls(mean, std, len(finite), len(values) - len(finite))


@dataclass(frozen=True, eq=False)
class Comparison:
    """What all tables, figures and the page show.

    Args:
        groups: one per experiment.
        columns: the numbers that at least one run has.
        last: accuracies are means over this number of the last evaluated rounds.
        failed: names of runs that belong to the experiments but failed.
        target: value of the monitored metric whose rounds and bytes are among the columns; None for none.
        unequal: why no number of some data sets is the best.

    >>> import numpy as np
    >>> from pathlib import Path
    >>> from flash_pl.config import compose
    >>> runs = [
    ...     Run(
    ...         path=Path(f"runs/{seed}"),
    ...         config=compose({"scheduler": "jmwst"}, [f"seed={seed}"]),
    ...         metrics={"round": np.array([1.0, 2.0]), "val_acc": np.array([0.5, accuracy])},
    ...         result={},
    ...         consensus={},
    ...     )
    ...     for seed, accuracy in [(1, 0.7), (2, 0.8)]
    ... ]
    >>> comparison, warnings = Comparison.of(runs, last=1)
    >>> (group,), (accuracy,) = comparison.groups, comparison.columns
    >>> group.label, accuracy.title, comparison.text(group, accuracy)
    ('jmwst', 'accuracy', '75.0 ± 7.1')
    """

    groups: Sequence[Group]
    columns: Sequence[Column]
    last: int
    failed: Sequence[str] = ()
    target: float | None = None
    unequal: Sequence[Inequality] = ()

    @classmethod
    def of(
        cls, runs: Iterable[Run], last: int, failed: Sequence[str] = (), target: float | None = None
    ) -> tuple["Comparison", list[str]]:
        """Return the comparison of at least one run, and warnings about runs that are left out, lack rounds, or do not
        reach the target. What makes runs unequal is in ``about_unequal``, which is part of the tables' captions.

        Raises:
            ConfigError: there is a target, and the runs have different metrics.
        """
        groups, warnings = group_runs(runs)
        kept = [run for group in groups for run in group.runs]
        warnings += [
            f"{run.path}: metrics.csv starts after round 1, because the run was continued from another directory; "
            "bytes and FLOPs relative to dense training are of the rounds in it; it has no time of rounds and no target"
            for run in kept
            if not run.has_all_rounds
        ]
        unequal = inequalities(groups, last)
        if target is not None:
            warnings += _check_target(kept, target)
        return cls(groups, columns_of(kept, last, target), last, failed, target, unequal), warnings

    @property
    def runs(self) -> list[Run]:
        """The runs of all groups."""
        return [run for group in self.groups for run in group.runs]

    @property
    def seeds(self) -> list[int]:
        """The seeds of all groups in ascending order."""
        return sorted({run.seed for run in self.runs})

    @cached_property
    def data_sets(self) -> list[str]:
        """The names of the data sets."""
        return list(dict.fromkeys(group.data for group in self.groups))

    def statistics(self, group: Group, column: Column) -> Statistics | None:
        """Return mean and standard deviation in base units, None if no run of the group has a value."""
        values = [value for run in group.runs if (value := column.value(run)) is not None]
        return Statistics.of(values) if values else None

    def unit(self, column: Column) -> Unit:
        """Return the unit in which the column is written."""
        cells = [self.statistics(group, column) for group in self.groups]
        return column.scale.unit_for(cell.mean for cell in cells if cell is not None and cell.n)

    def text(self, group: Group, column: Column) -> str:
        """Return a cell of the table, in the ``unit`` of the column.

        Examples: ``83.5 ± 0.6``; ``-`` without a value; ``83.5, 1 diverged`` if one seed has diverged, ``diverged`` if
        all have; ``12.0 (2 of 3)`` if one of three seeds has no value.
        """
        cell = self.statistics(group, column)
        if cell is None:
            return "-"
        if not cell.n:
            return "diverged"
        unit = self.unit(column)
        text = unit.format(cell.mean)
        if column.shows_std and cell.std is not None:
            text += f" ± {cell.std / unit.factor:.{unit.decimals(cell.mean)}f}"
        if cell.n + cell.diverged < len(group.runs):
            text += f" ({cell.n + cell.diverged} of {len(group.runs)})"
        return f"{text}, {cell.diverged} diverged" if cell.diverged else text

    def is_best(self, group: Group, column: Column) -> bool:
        """Return whether the group has the best number of its data set, as the table writes it, and another group has
        a worse one.

        A group with a seed that has diverged, or has no value, is never the best; nor is any where the numbers are
        unequal in kind.
        """
        if any(one.data == group.data and one.concerns(column) for one in self.unequal):
            return False
        same_data = [other for other in self.groups if other.data == group.data]
        cells = {other.label: cell for other in same_data if (cell := self.statistics(other, column)) is not None}
        unit = self.unit(column)
        sizes = {other.label: len(other.runs) for other in same_data}
        written = {label: float(unit.format(cell.mean)) for label, cell in cells.items() if cell.n == sizes[label]}
        if column.better is None or group.label not in written:
            return False
        best = (max if column.better == "high" else min)(written.values())
        others_are_worse = len(set(written.values())) > 1 or len(written) < len(same_data)
        return written[group.label] == best and others_are_worse

    @property
    def about_accuracy(self) -> str:
        """A sentence that says what the accuracies are."""
        rounds = "the last evaluated round"
        if self.last > 1:
            rounds = f"the last {self.last} evaluated rounds of a run (all, if it has fewer)"
        spread = ", then mean ± sample standard deviation over seeds" if self.has_repetitions else ""
        diverged = any(run.mean_of_last(run.monitor, self.last) == math.inf for run in self.runs)
        note = " Diverged means NaN or infinite in one of these rounds; means leave such runs out." if diverged else ""
        return f"Accuracy is the mean over {rounds}{spread}.{note}"

    @property
    def about_costs(self) -> str:
        """A sentence that says what the costs are."""
        return "Costs are means over seeds." if self.has_repetitions else "Costs are for the whole run."

    @property
    def about_target(self) -> str:
        """A sentence that says what the target is, empty without a target."""
        if self.target is None:
            return ""
        run, metric = self.runs[0], title_of(self.runs[0].monitor)
        bound = "at least" if run.higher_is_better else "at most"
        seeds = " Means are over the seeds that reach it." if self.has_repetitions else ""
        return (
            f"The target is {metric} of {bound} {self.target:g}, as measured after a round, without smoothing or "
            f"interpolation; - means never.{seeds}"
        )

    @property
    def about_unequal(self) -> str:
        """A sentence that says where no best is marked and why, empty if all numbers are equal in kind."""
        several = len(self.data_sets) > 1
        reasons = [f"{one.reason} (on {one.data})" if several else one.reason for one in self.unequal]
        return f"No best is marked, because {'; '.join(reasons)}." if reasons else ""

    @property
    def about_failed(self) -> str:
        """A sentence that names the failed runs, empty without failed runs."""
        if not self.failed:
            return ""
        return f"Left out, because they failed: {'; '.join(self.failed)}. Means are over the other seeds."

    @property
    def has_repetitions(self) -> bool:
        """Whether a group has several seeds."""
        return any(len(group.runs) > 1 for group in self.groups)


def _check_target(runs: Sequence[Run], target: float) -> list[str]:
    """Return a warning if no run reaches the target."""
    metrics = monitored_metrics(runs)
    if len(metrics) > 1:
        problem = f"{target:g} has no meaning, because runs are compared by {' and '.join(metrics)}"
        raise ConfigError("target", problem, "compare runs with the same trainer.monitor")
    if any(run.row_of_target(target) is not None for run in runs):
        return []
    values = [value for run in runs for value in run.values(metrics[0]).tolist() if math.isfinite(value)]
    best = (max if runs[0].higher_is_better else min)(values, default=math.nan)
    is_share = scale_of_metric(values, runs[0].higher_is_better) is PERCENT
    hint = f"; {metrics[0]} is a share, so write 0.8 for 80 %" if is_share and target > 1 else ""
    return [f"no run reaches the target {target:g}; the best {metrics[0]} in a round is {best:g}{hint}"]
