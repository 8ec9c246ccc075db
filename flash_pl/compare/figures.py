"""The figures of a comparison."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flash_pl import plotting
from flash_pl.compare.columns import BYTES, FLOPS, PLAIN, SHARE, TIME, Scale, monitors, scale_of, title_of
from flash_pl.compare.comparison import Comparison, Group
from flash_pl.compare.runs import Columns, Run

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


LAYER = "density/"  # what the columns of consensus.csv with the layers' densities begin with
LISTED = 10  # layers in a legend; more are told apart by their color alone


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure, the stem of its files and what it shows."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Axis:
    """A column of metrics.csv and how it is written at an axis."""

    column: str
    title: str
    scale: Scale
    from_zero: bool = False


ROUND = Axis("round", "round", PLAIN)
# What accuracy is drawn against, by the ends of the file names; and in the words of a caption.
COSTS = {
    "sent": (Axis("bytes_up_total", "sent by all clients", BYTES), "bytes sent from clients to the server"),
    "flops": (Axis("flops_total", "training of all clients", FLOPS), "theoretical FLOPs of training"),
    "fleet_time": (Axis("fleet_seconds_total", "simulated time of the fleet", TIME), "simulated time of the fleet"),
}


def pictures(comparison: Comparison) -> list[Picture]:
    """All figures for which there are data."""
    with matplotlib.rc_context(plotting.SETTINGS):
        return [*_accuracies(comparison), *_mismatch(comparison), *_layers(comparison)]


def _accuracies(comparison: Comparison) -> Iterator[Picture]:
    runs = [run for group in comparison.groups for run in group.runs]
    metrics = monitors(runs)
    for metric in metrics:
        y = Axis(metric, title_of(metric), scale_of(runs, metric))
        end = "_" + re.sub(r"\W+", "_", metric) if len(metrics) > 1 else ""
        what = "Accuracy of the model masked to the target density" if y.title == "accuracy" else y.title
        yield from _curves(comparison, f"accuracy{end}", ROUND, y, f"{what} over rounds.")
        for name, (x, against) in COSTS.items():
            caption = f"{what} against {against}, over the whole run so far, stage 1 included."
            yield from _curves(comparison, f"accuracy_{name}{end}", x, y, caption)


def _mismatch(comparison: Comparison) -> Iterator[Picture]:
    """Without the groups whose clients always agree: their lines would lie on one another."""
    y = Axis("mismatch_clients", "mask mismatch of clients", SHARE, from_zero=True)
    agreeing = [group for group in comparison.groups if all(run.total(y.column) == 0 for run in group.runs)]
    caption = "Mask mismatch between the clients of a round."
    if agreeing:
        names = "; ".join(dict.fromkeys(group.label for group in agreeing))
        caption += f" Left out, since all have one mask: {names}."
    yield from _curves(comparison, "mismatch", ROUND, y, caption, leave_out=agreeing)


def _curves(
    comparison: Comparison, name: str, x: Axis, y: Axis, caption: str, leave_out: Sequence[Group] = ()
) -> Iterator[Picture]:
    """A panel a data set, a line a group; nothing if no group has both columns."""
    order = list(dict.fromkeys(group.label for group in comparison.groups))
    curves = {group: Curve.of(group, x.column, y.column) for group in comparison.groups if group not in leave_out}
    found = {group: curve for group, curve in curves.items() if curve is not None}
    if not found:
        return
    data = [one for one in comparison.data if any(group.first.names["data"] == one for group in found)]
    x_unit = x.scale.fitting(curve.x[-1] for curve in found.values())
    y_unit = y.scale.fitting(curve.y.max() for curve in found.values())
    figure, panels = plotting.new_figure(len(data), across=2)
    for axes, one in zip(panels, data, strict=True):
        here = {group: curve for group, curve in found.items() if group.first.names["data"] == one}
        for group, curve in here.items():
            look = plotting.line_style(order.index(group.label))
            std = None if curve.std is None else curve.std / y_unit.factor
            plotting.draw(axes, curve.x / x_unit.factor, curve.y / y_unit.factor, std, look, group.label)
        if x is ROUND:
            plotting.whole_numbers(axes.xaxis)
        elif plotting.spans_decades([curve.x for curve in here.values()]):
            plotting.logarithmic(axes.xaxis)
        if y.from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(_with_unit(x.title, x_unit.name))
        axes.set_ylabel(_with_unit(y.title, y_unit.name))
        if len(comparison.data) > 1:
            axes.set_title(one)
    plotting.legend_below(figure, panels)
    yield Picture(name, f"{caption} {_seeds(found)}", figure)


def _layers(comparison: Comparison) -> Iterator[Picture]:
    """A figure a data set with a panel a group and a line a layer; nothing of groups that keep every weight."""
    for data in comparison.data:
        here = [group for group in comparison.groups if group.first.names["data"] == data and group.first.density < 1]
        found = [group for group in here if all(_layers_of(run) for run in group.runs)]
        if found:
            name, where = ("layers", "") if len(comparison.data) == 1 else (f"layers_{data}", f" ({data})")
            caption = f"Density of each layer in the server's mask over rounds{where}. {_seeds(found)}"
            yield Picture(name, caption, _layer_panels(found))


def _layer_panels(groups: Sequence[Group]) -> Figure:
    figure, panels = plotting.new_figure(len(groups), across=3, height=2.6, same_y=True)
    names = list(dict.fromkeys(name for group in groups for name in _layers_of(group.first)))
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(names)))
    for axes, group in zip(panels, groups, strict=True):
        for name, shade in zip(names, shades, strict=True):
            curve = Curve.through([run.consensus for run in group.runs], "round", name)
            if curve is not None:
                look = {"color": shade, "linestyle": "-"}
                plotting.draw(axes, curve.x, curve.y, curve.std, look, name.removeprefix(LAYER))
        plotting.logarithmic(axes.yaxis)
        plotting.whole_numbers(axes.xaxis)
        axes.set_xlabel("round")
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel("density of the layer")
        axes.set_title(plotting.wrapped(group.label, 36), fontsize="medium")
    if len(names) <= LISTED:
        plotting.legend_below(figure, panels)
    else:
        colors = matplotlib.cm.ScalarMappable(Normalize(1, len(names) / 0.92), "viridis")
        bar = figure.colorbar(colors, ax=panels, location="bottom", shrink=0.6, aspect=50)
        bar.set_label("layer, counted from the input")
        bar.ax.set_xlim(1, len(names))
        plotting.whole_numbers(bar.ax.xaxis)
    return figure


def _layers_of(run: Run) -> list[str]:
    """Columns of consensus.csv."""
    return [name for name in run.consensus if name.startswith(LAYER)]


def _seeds(groups: Collection[Group]) -> str:
    """Which runs a figure is drawn from."""
    numbers = sorted({seed for group in groups for seed in group.seeds})
    seeds = ", ".join(map(str, numbers))
    if all(len(group.runs) == 1 for group in groups):
        return f"Seed {seeds}." if len(numbers) == 1 else f"Seeds {seeds}, one of them a line."
    return f"Lines are means over seeds {seeds}, bands one sample standard deviation."


def _with_unit(title: str, unit: str) -> str:
    return f"{title}, {unit}" if unit else title
