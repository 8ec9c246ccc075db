"""The figures of a comparison: accuracy over rounds and costs, mask mismatch, layer densities."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import count

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flash_pl import plotting
from flash_pl.compare.columns import (
    BYTES,
    FLOPS,
    NUMBER,
    PERCENT,
    TIME,
    Scale,
    monitored_metrics,
    scale_of_runs,
    title_of,
)
from flash_pl.compare.comparison import Comparison
from flash_pl.compare.files import Columns
from flash_pl.compare.groups import Group
from flash_pl.compare.runs import Run

Array = NDArray[np.float64]

LAYER = "density/"  # prefix of the columns with layer densities in consensus.csv
LONGEST_ENDING = 60  # characters of a name in the name of a file
LEGEND_LAYERS = 10  # figures with more layers have a color bar instead of a legend


@dataclass(frozen=True, eq=False)
class ReportFigure:
    """A figure with the name of its files (without the ending) and its caption."""

    name: str
    caption: str
    figure: Figure

    @property
    def is_wide(self) -> bool:
        """Whether the figure has several panels in a row and needs the full width of a page."""
        return bool(self.figure.get_figwidth() > 7)


@dataclass(frozen=True)
class Axis:
    """A column of metrics.csv as an axis of a figure."""

    column: str
    title: str
    scale: Scale
    from_zero: bool = False


ROUND = Axis("round", "round", NUMBER)
# The costs over which accuracy is plotted: ending of the file name, axis, name in the caption.
COSTS = [
    ("sent", Axis("bytes_up_total", "sent by all clients", BYTES), "bytes sent from clients to the server"),
    ("flops", Axis("flops_total", "training of all clients", FLOPS), "theoretical FLOPs of training"),
    ("fleet_time", Axis("fleet_seconds_total", "simulated time of the fleet", TIME), "simulated time of the fleet"),
]


def figures_of(comparison: Comparison) -> list[ReportFigure]:
    """Return all figures for which the runs have data."""
    with matplotlib.rc_context(plotting.SETTINGS):
        return [*_accuracy_figures(comparison), *_mismatch_figure(comparison), *_layer_figures(comparison)]


def _accuracy_figures(comparison: Comparison) -> Iterator[ReportFigure]:
    metrics = monitored_metrics(comparison.runs)
    endings = file_names(metrics)
    for metric in metrics:
        y = Axis(metric, title_of(metric), scale_of_runs(comparison.runs, metric))
        ending = f"_{endings[metric]}" if len(metrics) > 1 else ""
        title = "Accuracy of the model masked to the target density" if y.title == "accuracy" else y.title
        yield from _line_figure(comparison, f"accuracy{ending}", ROUND, y, f"{title} over rounds.")
        for name, x, cost in COSTS:
            caption = f"{title} over {cost}, summed from the start of the run, with stage 1."
            yield from _line_figure(comparison, f"accuracy_{name}{ending}", x, y, caption)


def _mismatch_figure(comparison: Comparison) -> Iterator[ReportFigure]:
    """Leaves out the groups in which all clients have one mask, because their lines would all be at zero."""
    y = Axis("mismatch_clients", "mask mismatch of clients", PERCENT, from_zero=True)
    agreeing = [group for group in comparison.groups if all(run.total(y.column) == 0 for run in group.runs)]
    caption = "Mask mismatch between the clients of a round."
    if agreeing:
        names = "; ".join(dict.fromkeys(group.label for group in agreeing))
        caption += f" Left out, because all clients have the same mask: {names}."
    yield from _line_figure(comparison, "mismatch", ROUND, y, caption, left_out=agreeing)


def _line_figure(
    comparison: Comparison, name: str, x: Axis, y: Axis, caption: str, left_out: Sequence[Group] = ()
) -> Iterator[ReportFigure]:
    """A figure with one panel per data set and one line per group; no figure if no group has both columns."""
    labels = list(dict.fromkeys(group.label for group in comparison.groups))  # so that a label keeps its color
    groups = [group for group in comparison.groups if group not in left_out]
    curves = {group: curve for group in groups if (curve := Curve.of_group(group, x.column, y.column)) is not None}
    if not curves:
        return
    data_sets = [data for data in comparison.data_sets if any(group.data == data for group in curves)]
    x_unit = x.scale.unit_for(curve.x[-1] for curve in curves.values())
    y_unit = y.scale.unit_for(curve.y.max() for curve in curves.values())
    figure, panels = plotting.new_figure(len(data_sets), across=2)
    for axes, data in zip(panels, data_sets, strict=True):
        in_panel = {group: curve for group, curve in curves.items() if group.data == data}
        for group, curve in in_panel.items():
            style = plotting.line_style(labels.index(group.label))
            std = None if curve.std is None else curve.std / y_unit.factor
            plotting.plot_line(axes, curve.x / x_unit.factor, curve.y / y_unit.factor, std, style, group.label)
        if x is ROUND:
            plotting.set_integer_ticks(axes.xaxis)
        elif plotting.spans_decades([curve.x for curve in in_panel.values()]):
            plotting.set_log_scale(axes.xaxis)
        if y.from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(_with_unit(x.title, x_unit.name))
        axes.set_ylabel(_with_unit(y.title, y_unit.name))
        if len(comparison.data_sets) > 1:
            axes.set_title(data)
    plotting.legend_below(figure, panels)
    yield ReportFigure(name, f"{caption} {_about_seeds(curves)}", figure)


def _layer_figures(comparison: Comparison) -> Iterator[ReportFigure]:
    """One figure per data set, with one panel per group and one line per layer; dense groups are left out."""
    endings = file_names(comparison.data_sets)
    for data in comparison.data_sets:
        sparse = [group for group in comparison.groups if group.data == data and group.first.density < 1]
        groups = [group for group in sparse if all(_layer_columns(run) for run in group.runs)]
        if groups:
            name, place = (
                ("layers", "") if len(comparison.data_sets) == 1 else (f"layers_{endings[data]}", f" ({data})")
            )
            caption = f"Density of each layer in the server's mask over rounds{place}. {_about_seeds(groups)}"
            yield ReportFigure(name, caption, _layer_panels(groups))


def _layer_panels(groups: Sequence[Group]) -> Figure:
    figure, panels = plotting.new_figure(len(groups), across=3, height=2.6, same_y=True)
    names = list(dict.fromkeys(name for group in groups for name in _layer_columns(group.first)))
    many = len(names) > LEGEND_LAYERS
    # The ends of viridis are hard to see on a dark page and on a white one.
    shades = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.25, 0.85, max(len(names), 2))))
    styles = [
        {"color": to_hex(shades(index)), "linestyle": "-"} if many else plotting.line_style(index)
        for index in range(len(names))
    ]
    for axes, group in zip(panels, groups, strict=True):
        for name, style in zip(names, styles, strict=True):
            curve = Curve.of_tables([run.consensus for run in group.runs], "round", name)
            if curve is not None:
                plotting.plot_line(axes, curve.x, curve.y, curve.std, style, name.removeprefix(LAYER))
        plotting.set_log_scale(axes.yaxis)
        plotting.set_integer_ticks(axes.xaxis)
        axes.set_xlabel("round")
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel("density of the layer")
        axes.set_title(plotting.wrapped(group.label, 36), fontsize="medium")
    if not many:
        plotting.legend_below(figure, panels)
    else:
        mappable = matplotlib.cm.ScalarMappable(Normalize(1, len(names)), shades)
        bar = figure.colorbar(mappable, ax=panels, location="bottom", shrink=0.6, aspect=50)
        bar.set_label("layer, counted from the input")
        plotting.set_integer_ticks(bar.ax.xaxis)
    return figure


def _layer_columns(run: Run) -> list[str]:
    """Return the columns of consensus.csv with the density of a layer."""
    return [name for name in run.consensus if name.startswith(LAYER)]


@dataclass(frozen=True, eq=False)
class Curve:
    """The mean of a group over its seeds, for every round that all runs have.

    Args:
        x: means of one column.
        y: means of another column.
        std: sample standard deviations of ``y``; None for a single seed.
    """

    x: Array
    y: Array
    std: Array | None

    @classmethod
    def of_group(cls, group: Group, x: str, y: str) -> "Curve | None":
        """Return the curve of two columns of metrics.csv; None if no round has both in all runs."""
        return cls.of_tables([run.metrics for run in group.runs], x, y)

    @classmethod
    def of_tables(cls, tables: Sequence[Columns], x: str, y: str) -> "Curve | None":
        """Return the curve of two columns of several tables with a column ``round``.

        >>> first = {"round": np.array([1.0, 2.0]), "val_acc": np.array([0.2, 0.4])}
        >>> second = {"round": np.array([1.0, 2.0]), "val_acc": np.array([np.nan, 0.6])}
        >>> curve = Curve.of_tables([first, second], "round", "val_acc")
        >>> curve.x, curve.y
        (array([2.]), array([0.5]))
        """
        if not tables or not all(x in table and y in table for table in tables):
            return None
        filled = [np.isfinite(table[x]) & np.isfinite(table[y]) for table in tables]
        rounds = reduce(np.intersect1d, [table["round"][rows] for table, rows in zip(tables, filled, strict=True)])
        if not len(rounds):
            return None
        xs, ys = (np.stack([table[name][np.isin(table["round"], rounds)] for table in tables]) for name in (x, y))
        return cls(xs.mean(0), ys.mean(0), ys.std(0, ddof=1) if len(tables) > 1 else None)


def file_names(names: Sequence[str]) -> dict[str, str]:
    """A part of a file name for each of some names, all different.

    >>> file_names(["val_acc", "val/acc", "../x"])
    {'val_acc': 'val_acc', 'val/acc': 'val_acc_2', '../x': '_x'}
    """
    parts: dict[str, str] = {}
    for name in names:
        part = re.sub(r"\W+", "_", name, flags=re.ASCII)[:LONGEST_ENDING]
        numbered = (f"{part}_{number}" for number in count(2))
        parts[name] = part if part not in parts.values() else next(one for one in numbered if one not in parts.values())
    return parts


def _about_seeds(groups: Collection[Group]) -> str:
    """Return a sentence that says which seeds are in a figure, and how."""
    numbers = sorted({seed for group in groups for seed in group.seeds})
    seeds = ", ".join(map(str, numbers))
    if all(len(group.runs) == 1 for group in groups):
        return f"Seed {seeds}." if len(numbers) == 1 else f"Seeds {seeds}, one per line."
    return f"Lines are means over seeds {seeds}, bands one sample standard deviation."


def _with_unit(title: str, unit: str) -> str:
    return f"{title}, {unit}" if unit else title
