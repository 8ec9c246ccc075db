"""The columns of the table: every format writes these."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from flash_pl.compare.runs import Run


@dataclass(frozen=True)
class Unit:
    """``factor`` base units; ``digits`` after the point, None for three significant ones."""

    name: str
    factor: float = 1.0
    digits: int | None = None

    def write(self, value: float) -> str:
        """A number of base units in this unit.

        >>> Unit("MB", 1e6).write(1234567), Unit("%", 0.01, 1).write(0.8349), Unit("").write(0.00012)
        ('1.23', '83.5', '0.00012')
        """
        scaled = value / self.factor
        return f"{scaled:.{self.decimals(value)}f}"

    def decimals(self, value: float) -> int:
        """The number of decimals with which ``value`` base units are written."""
        if self.digits is not None:
            return self.digits
        scaled = abs(value / self.factor)
        exponent = int(f"{scaled:.2e}".partition("e")[2])  # after rounding to three digits
        return min(max(2 - exponent, 0), 5) if scaled else 0


@dataclass(frozen=True)
class Scale:
    """Units of one kind, ascending."""

    units: tuple[Unit, ...]

    def fitting(self, values: Iterable[float]) -> Unit:
        """The largest unit that is not above the largest value.

        >>> BYTES.fitting([20.0, 3e6]).name
        'MB'
        """
        largest = max(map(abs, values), default=0.0)
        return next((unit for unit in reversed(self.units) if unit.factor <= largest), self.units[0])


def _si(name: str, *prefixes: str) -> Scale:
    powers = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
    return Scale(tuple(Unit(f"{prefix}{name}", powers[prefix]) for prefix in prefixes))


BYTES = _si("B", "", "k", "M", "G", "T")
FLOPS = _si("FLOP", "", "M", "G", "T", "P", "E")
TIME = Scale((Unit("s"), Unit("min", 60.0), Unit("h", 3600.0), Unit("days", 86400.0)))
RATIO = Scale((Unit(""),))
SHARE = Scale((Unit("%", 0.01, 1),))
PLAIN = Scale((Unit(""),))


def scale_of_metric(values: Iterable[float | None], highest: bool) -> Scale:
    """Percent for what lies between 0 and 1 and should be high; values that are missing or not finite do not count."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return SHARE if highest and all(0 <= value <= 1 for value in finite) else PLAIN


Key = tuple[str, str]  # data set and model


@dataclass(frozen=True)
class DenseModels:
    """Bytes of a dense model in one direction, by data set and model.

    They are a run's own ``bytes_dense``, else the mean message of a run beside it that keeps every weight.
    """

    bytes: dict[Key, float]

    @classmethod
    def of(cls, runs: Iterable[Run]) -> "DenseModels":
        found: dict[Key, float] = {}
        for run in runs:
            sent, count = traffic(run), messages(run, "up") + messages(run, "down")
            if run.density == 1 and sent is not None and count:
                found.setdefault(_network_key(run), sent / count)
        return cls(found)

    def ratio(self, run: Run) -> float | None:
        """All bytes of a run's ``traffic`` over those of as many dense messages as its rounds had."""
        sent, count = traffic(run), messages(run, "up") + messages(run, "down")
        dense = run.dense_bytes or self.bytes.get(_network_key(run))
        return None if sent is None or not count or dense is None else sent / (count * dense)


def traffic(run: Run) -> float | None:
    """Bytes up and down, see ``Run.spent``."""
    up, down = run.spent("bytes_up"), run.spent("bytes_down")
    return None if up is None or down is None else up + down


def messages(run: Run, way: str) -> float:
    """How often a client got a model (``down``) or sent one in time (``up``), summed over the rounds."""
    counted = run.total("participants")
    if counted is None:
        return float(run.config["cohort"]) * len(run.metrics["round"])
    return counted + (run.total("late") or 0.0) * (way == "down")


def _network_key(run: Run) -> Key:
    return run.names["data"], run.names["model"]


@dataclass(frozen=True)
class Column:
    """One number of a run; ``value`` gives it in base units (bytes, FLOPs, seconds, shares), None if it has none.

    It is inf if the run has diverged. ``part`` is the table in which it is. ``spread`` shows the standard deviation
    over seeds beside the mean; table.csv always has it.
    """

    key: str
    title: str
    about: str
    scale: Scale
    value: Callable[[Run], float | None]
    better: Literal["high", "low"] | None = "low"
    spread: bool = False
    part: Literal["accuracy", "cost"] = "cost"


def columns(runs: Sequence[Run], last: int) -> list[Column]:
    """All columns that any of the runs can fill.

    Args:
        last: accuracies are means over so many of the last evaluated rounds.
    """
    found = [*_accuracies(runs, last), *_masks(), *_costs(DenseModels.of(runs))]
    return [column for column in found if any(column.value(run) is not None for run in runs)]


def monitors(runs: Iterable[Run]) -> list[str]:
    """The metrics that are compared, mostly a single one."""
    return list(dict.fromkeys(run.monitor for run in runs))


def scale_of(runs: Sequence[Run], monitor: str) -> Scale:
    """That of a metric with the values that the runs ended with."""
    return scale_of_metric([run.last(monitor) for run in runs if run.monitor == monitor], _highest(runs, monitor))


def title_of(monitor: str) -> str:
    return "accuracy" if monitor == "val_acc" else monitor


def _accuracies(runs: Sequence[Run], last: int) -> list[Column]:
    found = []
    for monitor in monitors(runs):
        tier = re.compile(re.escape(monitor) + r"_d(\d.*)")
        tiers = {name: match[1] for run in runs for name in run.metrics if (match := tier.fullmatch(name))}
        names = {monitor: ("", "of the model masked to the target density")}
        names[f"{monitor}_union"] = (" of the union", "before masking")
        names |= {name: (f" at d = {density}", "masked to a tier") for name, density in tiers.items()}
        better: Literal["high", "low"] = "high" if _highest(runs, monitor) else "low"
        for name, (ending, about) in names.items():
            title, about = title_of(monitor) + ending, f"{about}, mean over the last {last} evaluated rounds"
            found.append(
                Column(
                    name, title, about, scale_of(runs, monitor), _mean(monitor, name, last), better, True, "accuracy"
                )
            )
    return found


def _masks() -> list[Column]:
    titles = {
        "mismatch_clients": ("mismatch of clients", "between the masks of clients, last round with two or more"),
        "in_all_masks": ("held by all", "share of the weights voted for that all clients hold, last round with any"),
        "in_one_mask": ("held by one", "share of the weights voted for that one client holds, last round with any"),
    }
    return [Column(name, *about, SHARE, _last(name), None, part="accuracy") for name, about in titles.items()]


def _costs(dense: DenseModels) -> list[Column]:
    whole, each = "over the whole run, stage 1 included", "per client and round, without stage 1"
    return [
        Column("bytes_up", "up", whole, BYTES, _last("bytes_up_total")),
        Column("bytes_down", "down", whole, BYTES, _last("bytes_down_total")),
        Column("bytes_up_each", "up per client and round", each, BYTES, _each("up")),
        Column("bytes_down_each", "down per client and round", each, BYTES, _each("down")),
        Column("bytes_ratio", "bytes vs dense", f"up and down, {whole}", RATIO, dense.ratio),
        Column("flops", "training", whole, FLOPS, _last("flops_total")),
        Column("flops_ratio", "training vs dense", f"{whole}, against dense rounds alone", RATIO, _flops_ratio),
        Column("flops_inference_ratio", "inference vs dense", "FLOPs", RATIO, _last("flops_inference_ratio")),
        Column("fleet_seconds", "fleet time", "simulated, of the whole run", TIME, _last("fleet_seconds_total")),
        Column("seconds", "wall clock", "of the rounds, on the machine that ran them", TIME, _seconds),
    ]


def _highest(runs: Sequence[Run], monitor: str) -> bool:
    return next(run.highest for run in runs if run.monitor == monitor)


def _mean(monitor: str, name: str, last: int) -> Callable[[Run], float | None]:
    return lambda run: run.mean_of_last(name, last) if run.monitor == monitor else None


def _last(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.last(name)


def _seconds(run: Run) -> float | None:
    """Nobody knows here how long the rounds took that another directory has."""
    return run.total("seconds") if run.whole else None


def _each(way: str) -> Callable[[Run], float | None]:
    def value(run: Run) -> float | None:
        total, count = run.total(f"bytes_{way}"), messages(run, way)
        return total / count if total is not None and count else None

    return value


def _flops_ratio(run: Run) -> float | None:
    """FLOPs of training, see ``Run.spent``, over those of dense training on the same samples in the rounds."""
    if not {"flops", "flops_ratio"} <= run.metrics.keys():
        return None
    each, ratio = run.metrics["flops"], run.metrics["flops_ratio"]
    trained = ratio > 0  # false where nobody has trained
    dense, total = float((each[trained] / ratio[trained]).sum()), run.spent("flops")
    return total / dense if dense and total is not None else None
