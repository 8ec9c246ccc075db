"""A metric of a group over something else."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from flash_pl.compare.groups import Group
from flash_pl.compare.runs import Columns

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """Means over seeds of both axes, a point a round that all runs of the group have; ``std`` is the sample standard
    deviation of ``y``, None for a single seed."""

    x: Array
    y: Array
    std: Array | None

    @classmethod
    def of(cls, group: Group, x: str, y: str) -> "Curve | None":
        """Of two columns of metrics.csv; None where the runs share no round that has both."""
        return cls.through([run.metrics for run in group.runs], x, y)

    @classmethod
    def through(cls, tables: list[Columns], x: str, y: str) -> "Curve | None":
        """Of two columns of several tables with a column ``round``."""
        if not tables or not all(x in table and y in table for table in tables):
            return None
        whole = [np.isfinite(table[x]) & np.isfinite(table[y]) for table in tables]
        rounds = reduce(np.intersect1d, [table["round"][kept] for table, kept in zip(tables, whole, strict=True)])
        if not len(rounds):
            return None
        xs, ys = (np.stack([table[name][np.isin(table["round"], rounds)] for table in tables]) for name in (x, y))
        return cls(xs.mean(0), ys.mean(0), ys.std(0, ddof=1) if len(tables) > 1 else None)
