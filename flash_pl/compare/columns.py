"""The columns of the table: every format writes these."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from flash_pl.compare.dense import DenseModels, messages
from flash_pl.compare.runs import Run
from flash_pl.compare.units import BYTES, FLOPS, RATIO, SHARE, TIME, Scale, scale_of_metric


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
        "held_by_all": ("held by all", "share of the weights voted for that all clients hold, last round with any"),
        "held_by_one": ("held by one", "share of the weights voted for that one client holds, last round with any"),
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
