"""The columns of the tables: accuracies, masks and costs of a run, with their units."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from flash_pl.compare.runs import Run


@dataclass(frozen=True)
class Unit:
    """A unit of numbers.

    Args:
        name: such as ``MB``.
        factor: the size of the unit in base units (bytes, FLOPs, seconds, shares).
        digits: decimals of a number; None for three significant digits.

    >>> Unit("MB", 1e6).format(1234567), Unit("%", 0.01, digits=1).format(0.8349), Unit("").format(0.00012)
    ('1.23', '83.5', '0.00012')
    """

    name: str
    factor: float = 1.0
    digits: int | None = None

    def format(self, value: float) -> str:
        """Return the text of a value in base units, without the name of the unit."""
        return f"{value / self.factor:.{self.decimals(value)}f}"

    def decimals(self, value: float) -> int:
        """Return the number of decimals with which a value in base units is written."""
        if self.digits is not None:
            return self.digits
        scaled = abs(value / self.factor)
        exponent = int(f"{scaled:.2e}".partition("e")[2])  # after rounding to three digits
        return min(max(2 - exponent, 0), 5) if scaled else 0


@dataclass(frozen=True)
class Scale:
    """Units of one quantity in ascending order.

    >>> BYTES.unit_for([20.0, 3e6]).name
    'MB'
    """

    units: tuple[Unit, ...]

    def unit_for(self, values: Iterable[float]) -> Unit:
        """Return the largest unit that is at most the largest value."""
        largest = max(map(abs, values), default=0.0)
        return next((unit for unit in reversed(self.units) if unit.factor <= largest), self.units[0])


def _si_units(name: str, *prefixes: str) -> Scale:
    factors = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
    return Scale(tuple(Unit(f"{prefix}{name}", factors[prefix]) for prefix in prefixes))


BYTES = _si_units("B", "", "k", "M", "G", "T")
FLOPS = _si_units("FLOPs", "", "M", "G", "T", "P", "E")
TIME = Scale((Unit("s"), Unit("min", 60.0), Unit("h", 3600.0), Unit("days", 86400.0)))
PERCENT = Scale((Unit("%", 0.01, digits=1),))
NUMBER = Scale((Unit(""),))


def scale_of_metric(values: Iterable[float | None], higher_is_better: bool) -> Scale:
    """Return the scale of a logged metric with these values: percent for a share that should be high, else numbers.

    A metric is a share if its values are between 0 and 1; values that are None, NaN or infinite do not count.

    >>> scale_of_metric([0.5, None, 0.9], higher_is_better=True) is PERCENT
    True
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return PERCENT if higher_is_better and all(0 <= value <= 1 for value in finite) else NUMBER


def title_of(metric: str) -> str:
    """Return the name under which tables and figures show a metric.

    >>> title_of("val_acc"), title_of("val_loss")
    ('accuracy', 'val_loss')
    """
    return "accuracy" if metric == "val_acc" else metric


def monitored_metrics(runs: Iterable[Run]) -> list[str]:
    """Return the metrics by which the runs are compared; usually there is one."""
    return list(dict.fromkeys(run.monitor for run in runs))


def scale_of_runs(runs: Sequence[Run], metric: str) -> Scale:
    """Return the scale of a monitored metric, by its values in all rounds."""
    values = [value for run in runs if run.monitor == metric for value in run.values(metric).tolist()]
    return scale_of_metric(values, _higher_is_better(runs, metric))


def _higher_is_better(runs: Sequence[Run], metric: str) -> bool:
    return next(run.higher_is_better for run in runs if run.monitor == metric)


Value = Callable[[Run], float | None]


@dataclass(frozen=True)
class Column:
    """A number of a run.

    Args:
        key: name in table.csv.
        title: name in the other tables.
        meaning: what the title does not say.
        scale: units in which the number is written.
        value: returns the number in base units (bytes, FLOPs, seconds, shares): None for a run without it, inf for a
            run that has diverged.
        better: whether a high or a low number is good; None if neither is.
        shows_std: whether the tables show the standard deviation over seeds; table.csv always has it.
        table: the table with this column.
        of_whole_run: whether a longer run has another value only because it is longer.
    """

    key: str
    title: str
    meaning: str
    scale: Scale
    value: Value
    better: Literal["high", "low"] | None = "low"
    shows_std: bool = False
    table: Literal["accuracy", "target", "cost"] = "cost"
    of_whole_run: bool = True


def columns_of(runs: Sequence[Run], last: int, target: float | None = None) -> list[Column]:
    """Return all columns for which at least one run has a value, and those of the target in any case.

    Args:
        last: accuracies are means over this number of the last evaluated rounds.
        target: value of the monitored metric whose costs are wanted.
    """
    columns = [*_accuracy_columns(runs, last), *_mask_columns(), *_cost_columns(runs)]
    filled = [column for column in columns if any(column.value(run) is not None for run in runs)]
    return filled if target is None else [*filled, *_target_columns(runs, target)]


def _accuracy_columns(runs: Sequence[Run], last: int) -> list[Column]:
    columns = []
    for metric in monitored_metrics(runs):
        tier = re.compile(re.escape(metric) + r"_d(\d.*)")
        tiers = {name: match[1] for run in runs for name in run.metrics if (match := tier.fullmatch(name))}
        titles = {
            metric: ("", "of the model masked to the target density"),
            f"{metric}_union": (" of the union", "of the model before masking"),
            **{name: (f" at d = {density}", "of the model masked for a tier") for name, density in tiers.items()},
        }
        for name, (ending, model) in titles.items():
            columns.append(
                Column(
                    key=name,
                    title=title_of(metric) + ending,
                    meaning=f"{model}, mean over the last {last} evaluated rounds",
                    scale=scale_of_runs(runs, metric),
                    value=_mean_of_last(metric, name, last),
                    better="high" if _higher_is_better(runs, metric) else "low",
                    shows_std=True,
                    table="accuracy",
                )
            )
    return columns


def _mask_columns() -> list[Column]:
    share = "of the weights in the mask of any client, share that is in"
    titles = {
        "mismatch_clients": ("mismatch of clients", "between the masks of clients, in the last round with two or more"),
        "in_all_masks": ("in all masks", f"{share} all of them, in the last round with clients"),
        "in_one_mask": ("in one mask", f"{share} one of them, in the last round with clients"),
    }
    return [
        Column(name, title, meaning, PERCENT, _last(name), better=None, table="accuracy")
        for name, (title, meaning) in titles.items()
    ]


def _cost_columns(runs: Sequence[Run]) -> list[Column]:
    whole, message = "over the whole run, with stage 1", "per client and round, without stage 1"
    dense = f"{whole}, relative to a dense model"
    return [
        Column("bytes_up", "up", whole, BYTES, _last("bytes_up_total")),
        Column("bytes_down", "down", whole, BYTES, _last("bytes_down_total")),
        Column("bytes_up_each", "up per client and round", message, BYTES, _bytes_per_message("up")),
        Column("bytes_down_each", "down per client and round", message, BYTES, _bytes_per_message("down")),
        Column(
            "bytes_ratio",
            "bytes vs dense",
            f"up and down, {dense} of float32 in every message",
            NUMBER,
            _bytes_ratio(runs),
        ),
        Column("flops", "training", whole, FLOPS, _last("flops_total")),
        Column("flops_ratio", "training vs dense", f"FLOPs {dense} in the same rounds", NUMBER, _flops_ratio),
        Column(
            "flops_inference_ratio",
            "inference vs dense",
            "FLOPs of a prediction, relative to a dense model",
            NUMBER,
            _last("flops_inference_ratio"),
        ),
        Column("fleet_seconds", "fleet time", "simulated, of the whole run", TIME, _last("fleet_seconds_total")),
        Column(
            "seconds",
            "time of rounds",
            "wall clock of the rounds, without stage 1 and what is before and after the rounds",
            TIME,
            _seconds,
        ),
    ]


def _target_columns(runs: Sequence[Run], target: float) -> list[Column]:
    def rounds(run: Run) -> float | None:
        row = run.row_of_target(target)
        return None if row is None else float(run.metrics["round"][row])

    def sent(*names: str) -> Value:
        def value(run: Run) -> float | None:
            row = run.row_of_target(target)
            totals = [run.metrics.get(name) for name in names]
            return None if row is None else sum(math.nan if one is None else float(one[row]) for one in totals)

        return lambda run: None if (total := value(run)) is None or math.isnan(total) else total

    count = Scale((Unit("", digits=0 if len({run.seed for run in runs}) == 1 else 1),))
    reached = f"the first round in which the metric reaches {target:g}, as it was measured"
    both, until = "from clients to the server and back", "until its end, with stage 1"
    columns = [
        ("rounds_to_target", "rounds to target", f"{reached}; - means never", count, rounds),
        ("bytes_up_to_target", "upload to target", f"by all clients {until}", BYTES, sent("bytes_up_total")),
        (
            "bytes_to_target",
            "both ways to target",
            f"{both}, of all clients {until}",
            BYTES,
            sent("bytes_up_total", "bytes_down_total"),
        ),
    ]
    return [
        Column(key, title, meaning, scale, value, shows_std=True, table="target", of_whole_run=False)
        for key, title, meaning, scale, value in columns
    ]


def _mean_of_last(metric: str, name: str, last: int) -> Value:
    return lambda run: run.mean_of_last(name, last) if run.monitor == metric else None


def _last(name: str) -> Value:
    return lambda run: run.last(name)


def _bytes_per_message(direction: str) -> Value:
    def value(run: Run) -> float | None:
        total, count = run.total(f"bytes_{direction}"), _messages(run, direction)
        return total / count if total is not None and count else None

    return value


def _bytes_ratio(runs: Iterable[Run]) -> Value:
    """The bytes of a run, divided by those of equally many messages with the dense model.

    The size of a dense message is in the result of the run. If an older result lacks it, it is the mean message of a
    dense run in ``runs`` with the same data set and model.
    """
    dense_bytes: dict[tuple[str, str], float] = {}
    for run in runs:
        total, count = _bytes_both_ways(run), _messages(run, "up") + _messages(run, "down")
        if run.density == 1 and total is not None and count:
            dense_bytes.setdefault(_data_and_model(run), total / count)

    def value(run: Run) -> float | None:
        total, count = _bytes_both_ways(run), _messages(run, "up") + _messages(run, "down")
        dense = run.dense_bytes or dense_bytes.get(_data_and_model(run))
        return None if total is None or not count or dense is None else total / (count * dense)

    return value


def _bytes_both_ways(run: Run) -> float | None:
    up, down = run.cost("bytes_up"), run.cost("bytes_down")
    return None if up is None or down is None else up + down


def _messages(run: Run, direction: str) -> float:
    """Return how many models clients received (``down``), or sent in time (``up``), summed over the rounds.

    With ``on_client_error=skip`` a round may have been tried several times, and the run has counted the messages.
    """
    if (counted := run.total(f"messages_{direction}")) is not None:
        return counted
    participants = run.total("participants")
    if participants is None:
        return float(run.config["cohort"]) * len(run.metrics["round"])
    return participants + (run.total("late") or 0.0) * (direction == "down")


def _data_and_model(run: Run) -> tuple[str, str]:
    return run.names["data"], run.names["model"]


def _flops_ratio(run: Run) -> float | None:
    """Return the FLOPs of training with stage 1, divided by those of dense training on the samples of the rounds."""
    if not {"flops", "flops_ratio"} <= run.metrics.keys():
        return None
    flops, ratio = run.metrics["flops"], run.metrics["flops_ratio"]
    trained = ratio > 0  # rounds without clients have no ratio
    dense, total = float((flops[trained] / ratio[trained]).sum()), run.cost("flops")
    return total / dense if dense and total is not None else None


def _seconds(run: Run) -> float | None:
    """Return the duration of the rounds, None if some rounds are in another directory."""
    return run.total("seconds") if run.has_all_rounds else None
