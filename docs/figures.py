"""The figures of the home page and of the tutorial, from the runs of the commands on these pages.

flash-pl fit dense && flash-pl fit jmwst && flash-pl fit spdst run_dir=runs/first
flash-pl fit jmwst rounds=20 density=0.1 lr=0.05 run_dir=runs/second
python docs/figures.py
"""

import csv
import json
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flash_pl.plotting import COLORS, GRID, PLAIN, SETTINGS

DOCS = Path(__file__).parent
RUNS = Path("runs")
FIRST = RUNS / "first"
MINUTE = {
    "dense": (RUNS / "digits-dense-d1-s1", COLORS[6], ":"),
    "JMWST, 5 % of the weights": (RUNS / "digits-jmwst-d0.05-s1", COLORS[3], "-"),
    "SPDST, 5 % of the weights": (FIRST, COLORS[0], "--"),
}


def column(run: Path, name: str, factor: float = 1.0) -> list[float]:
    """A column of a run's metrics.csv."""
    with open(run / "metrics.csv", encoding="utf-8") as file:
        return [float(row[name]) * factor for row in csv.DictReader(file)]


def curve(axes: Axes, run: Path, name: str, **style: object) -> None:
    """Draw a column in percent against the round."""
    axes.plot(column(run, "round"), column(run, name, 100), **style)


def two_panels() -> tuple[Figure, Axes, Axes]:
    figure = Figure(figsize=(7.4, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.set(xlabel="round", ylim=(0, 100))
    left.set_ylabel("accuracy, %")
    return figure, left, right


def minute() -> Figure:
    figure, left, right = two_panels()
    for label, (run, color, dashes) in MINUTE.items():
        curve(left, run, "val_acc", color=color, linestyle=dashes, label=label)
        right.plot(column(run, "bytes_up_total", 1e-6), column(run, "val_acc", 100), dashes, color=color)
    left.legend(loc="lower right")
    right.set(xscale="log", xlabel="MB that all clients have sent")
    right.xaxis.set_major_formatter(PLAIN)
    return figure


def tutorial_first() -> Figure:
    figure, left, right = two_panels()
    curve(left, FIRST, "val_acc", color=COLORS[0])
    densities = json.loads((FIRST / "result.json").read_text(encoding="utf-8"))["layer_density"]
    layers, shares = [*densities], [100 * density for density in densities.values()]
    right.set(xlabel="density of the layer, %", xlim=(0, 60), ylim=(len(layers) - 0.5, -0.5))
    right.bar_label(right.barh(layers, shares, color=COLORS[2]), fmt="%.1f", padding=3)
    return figure


def tutorial_second() -> Figure:
    figure, left, right = two_panels()
    curve(left, RUNS / "second", "val_acc", color=COLORS[0])
    masks = {"clients": "two clients", "server": "client and server", "temporal": "old and new server mask"}
    for color, (name, label) in zip(COLORS, masks.items(), strict=False):
        curve(right, RUNS / "second", f"mismatch_{name}", color=color, label=label)
    right.set(ylim=(0, 40), ylabel="mask mismatch, %")
    right.legend()
    return figure


if __name__ == "__main__":
    with rc_context({**SETTINGS, "svg.hashsalt": "flash_pl"}):
        for draw in (minute, tutorial_first, tutorial_second):
            draw().savefig(DOCS / f"{draw.__name__}.svg", metadata={"Date": None})
