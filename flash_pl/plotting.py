"""How figures look: the same color for a group in all of them, readable for the color-blind and in print."""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Okabe and Ito (2008), without the yellow that white paper swallows.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (8, 2)), (0, (1, 4)), (0, (6, 1, 1, 1, 1, 1)), (0, (4, 4)))
FEW = 10  # points of a curve that are marked one by one
WIDE = 5.0  # ratio of an axis' ends above which it is logarithmic
DPI = 150
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
SETTINGS: dict[Any, Any] = {"font.size": 9, "pdf.fonttype": 42, "legend.frameon": False, "text.parse_math": False}


def line_style(index: int) -> dict[str, Any]:
    """Color and dashes of the group with this index."""
    return {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index // len(COLORS) % len(DASHES)]}


def new_figure(panels: int, across: int, height: float = 3.3, same_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with equal panels, at most ``across`` side by side; with ``same_y`` all have one y axis."""
    across = min(panels, across)
    down = -(-panels // across)
    figure = Figure(figsize=(6.4 if across == 1 else 3.6 * across, height * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=same_y)
    for spare in grid.flat[panels:]:
        spare.remove()
    axes = list(grid.flat[:panels])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="0.9", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def draw(axes: Axes, x: Array, y: Array, std: Array | None, style: dict[str, Any], label: str) -> None:
    """A line, in a band of one standard deviation if there is one."""
    marker = "o" if len(x) <= FEW else None
    text = wrapped(label)
    text = f" {text}" if text.startswith("_") else text  # matplotlib leaves labels that begin so out of legends
    axes.plot(x, y, label=text, linewidth=1.5, marker=marker, markersize=3, **style)
    if std is not None:
        axes.fill_between(x, y - std, y + std, color=style["color"], alpha=0.18, linewidth=0)


def spans_decades(xs: Sequence[Array]) -> bool:
    """Whether curves end so far apart that only a logarithmic axis shows them all."""
    ends = [float(x[-1]) for x in xs if len(x) and x[-1] > 0]
    return bool(ends) and max(ends) / min(ends) > WIDE


def logarithmic(axis: Any) -> None:
    """A logarithmic axis with plain numbers, as many as have room."""
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log", nonpositive="mask")
    low, high = sorted(axis.get_view_interval())
    decades = high / low
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1000 else (1.0,)))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())


def whole_numbers(axis: Any) -> None:
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=2, steps=[1, 2, 5, 10]))


def legend_below(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, under them, in as many columns as have room; the figure grows by it."""
    entries = {label: handle for one in axes for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    for columns in range(len(entries), 0, -1):
        legend = figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)
        box = legend.get_window_extent()
        if columns == 1 or box.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)
            return
        legend.remove()


def wrapped(label: str, width: int = 70) -> str:
    """A long label in lines of at most ``width`` characters."""
    return "\n".join(textwrap.wrap(label, width))


def as_png(figure: Figure) -> bytes:
    return _saved(figure, "png", {"Software": None})


def as_pdf(figure: Figure) -> bytes:
    return _saved(figure, "pdf", {"Creator": None, "Producer": None, "CreationDate": None})


def _saved(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    """The file's bytes, the same for the same figure."""
    out = BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(out, format=kind, dpi=DPI, metadata=metadata)
    return out.getvalue()
