"""The common look of all figures: colors that color-blind readers can tell apart, axes, legends and files."""

import re
import textwrap
import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Okabe and Ito (2008) without yellow, which is hard to see on white.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (8, 2)), (0, (1, 4)), (0, (6, 1, 1, 1, 1, 1)), (0, (4, 4)))
MARKED_POINTS = 10  # a line with at most this many points has a marker at each of them
LOG_RATIO = 5.0  # lines whose ends differ by more than this factor need a logarithmic axis
DPI = 150
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")  # writes ticks as 0.01 instead of 10^-2
INK, GRID = "#000000", "#e5e5e5"  # of axes and text, and of the lines behind them, in an SVG
SETTINGS: dict[Any, Any] = {"font.size": 9, "pdf.fonttype": 42, "legend.frameon": False, "text.parse_math": False}


def new_figure(panels: int, across: int, height: float = 3.3, same_y: bool = False) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and the axes of its panels, which have equal sizes.

    Args:
        panels: number of panels.
        across: largest number of panels in one row.
        height: height of a row in inches.
        same_y: whether all panels share one y axis.

    >>> figure, axes = new_figure(panels=3, across=2)
    >>> len(axes), figure.get_size_inches().tolist()
    (3, [7.2, 6.6])
    """
    across = min(panels, across)
    down = -(-panels // across)
    figure = Figure(figsize=(5.0 if across == 1 else 3.6 * across, height * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=same_y)
    for unused in grid.flat[panels:]:
        unused.remove()
    used = list(grid.flat[:panels])
    for axes in used:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, used


def line_style(index: int) -> dict[str, Any]:
    """Return the color and the dashes of the line with this index.

    The first seven lines differ by their color, the next seven have other dashes, and so on.

    >>> line_style(0), line_style(7)
    ({'color': '#0072B2', 'linestyle': '-'}, {'color': '#0072B2', 'linestyle': '--'})
    """
    return {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index // len(COLORS) % len(DASHES)]}


def plot_line(axes: Axes, x: Array, y: Array, std: Array | None, style: dict[str, Any], label: str) -> None:
    """Plot a line and, unless ``std`` is None, a band of one standard deviation around it.

    >>> figure, (axes,) = new_figure(panels=1, across=1)
    >>> rounds, accuracy = np.array([1.0, 2.0, 3.0]), np.array([0.2, 0.5, 0.6])
    >>> plot_line(axes, rounds, accuracy, None, line_style(0), "jmwst")
    >>> [line.get_label() for line in axes.get_lines()]
    ['jmwst']
    """
    marker = "o" if len(x) <= MARKED_POINTS else None
    text = wrapped(label)
    text = f" {text}" if text.startswith("_") else text  # matplotlib hides labels that start with an underscore
    axes.plot(x, y, label=text, linewidth=1.5, marker=marker, markersize=3, **style)
    if std is not None:
        axes.fill_between(x, y - std, y + std, color=style["color"], alpha=0.18, linewidth=0)


def wrapped(label: str, width: int = 70) -> str:
    """Return the label in lines of at most ``width`` characters.

    >>> wrapped("jmwst, prune_rate=0.25", width=16)
    'jmwst,\\nprune_rate=0.25'
    """
    return "\n".join(textwrap.wrap(label, width))


def spans_decades(xs: Sequence[Array]) -> bool:
    """Return whether the lines with these x values end so far apart that they need a logarithmic x axis.

    >>> spans_decades([np.array([1.0, 2.0]), np.array([10.0, 20.0])])
    True
    """
    ends = [float(x[-1]) for x in xs if len(x) and x[-1] > 0]
    return bool(ends) and max(ends) / min(ends) > LOG_RATIO


def set_log_scale(axis: Any) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2 and 5 times the powers of ten (at the powers alone over
    three decades or more).

    Args:
        axis: ``axes.xaxis`` or ``axes.yaxis``.
    """
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log", nonpositive="mask")
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())


def set_integer_ticks(axis: Any) -> None:
    """Put the ticks of an axis at integers only.

    Args:
        axis: ``axes.xaxis`` or ``axes.yaxis``.
    """
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=2, steps=[1, 2, 5, 10]))


def legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    """Add one legend for all panels below them, in as many columns as fit; the figure becomes taller by its height."""
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    for columns in range(len(handles), 0, -1):
        place: dict[str, Any] = {"loc": "outside lower center", "frameon": False}
        legend = figure.legend(list(handles.values()), list(handles), ncols=columns, **place)
        box = legend.get_window_extent()
        if columns == 1 or box.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)
            return
        legend.remove()


def as_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file; the same figure gives the same bytes."""
    return _save(figure, "png", {"Software": None})


def as_pdf(figure: Figure) -> bytes:
    """Return the figure as a PDF file; the same figure gives the same bytes."""
    return _save(figure, "pdf", {"Creator": None, "Producer": None, "CreationDate": None})


def as_inline_svg(figure: Figure, name: str) -> str:
    """Return the figure as an ``<svg>`` element for a page of HTML; the same figure gives the same text.

    Text stays text. The background is transparent; axes, text and black lines have the color of the text around it,
    and the grid has ``--line``, a variable of the page's style.

    Args:
        name: what the figure is called; its identifiers begin with it, so that a page may have several figures.
    """
    salt = {"svg.fonttype": "none", "svg.hashsalt": name}
    root = ElementTree.fromstring(_save(figure, "svg", dict.fromkeys(("Date", "Creator", "Format", "Type")), salt))
    width, height = root.attrib["viewBox"].split()[2:]
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.attrib[key.rpartition("}")[2]] = _for_page(key.rpartition("}")[2], value, name)
    root.attrib |= {"role": "img", "aria-label": name.replace("_", " "), "style": f"--width: {float(width):g}"}
    root.attrib |= {"width": f"{float(width):g}pt", "height": f"{float(height):g}pt"}
    root.tail = None
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _for_page(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    if key == "style":
        value = re.sub(r"font: ([\d.]+)px [^;]*", r"font: \1px sans-serif", value)
        return value.replace(INK, "currentColor").replace(GRID, "var(--line)")
    return value.replace("url(#", f"url(#{name}-")


def _save(figure: Figure, kind: str, metadata: dict[str, None], settings: dict[str, str] | None = None) -> bytes:
    """Save without the metadata that names the date and the versions of the software."""
    file = BytesIO()
    with matplotlib.rc_context(SETTINGS | (settings or {})), warnings.catch_warnings():
        # Names that are longer than the figure leave no place for the axes; it is saved all the same.
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        figure.savefig(file, format=kind, dpi=DPI, metadata=metadata, transparent=kind == "svg")
    return file.getvalue()
