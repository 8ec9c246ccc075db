"""Pictures of the mask: layer densities over the rounds, and how many clients hold a weight."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flash_pl import drawing


def density_picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Density of every layer after each round.

    With few layers a line each; a deep network's are a map, rounds to the right and layers down.

    Args:
        rows: of consensus.csv.
    """
    names = [name for name in rows[-1] if name.startswith("density/")]
    rounds = np.array([float(row["round"]) for row in rows])
    values = np.array([[float(row[name]) for row in rows] for name in names])
    labels = [name.partition("/")[2] for name in names]
    if len(names) > len(drawing.COLOURS):
        return _map(rounds, values, labels)
    figure, (axes,) = drawing.new_figure(1, across=1)
    for index, (label, line) in enumerate(zip(labels, values, strict=True)):
        drawing.draw(axes, rounds, line, None, drawing.line_style(index), label)
    axes.set(xlabel="round", ylabel="density of the layer")
    drawing.logarithmic(axes.yaxis)
    drawing.whole_numbers(axes.xaxis)
    drawing.legend_below(figure, [axes])
    return figure


def _map(rounds: drawing.Array, values: drawing.Array, labels: Sequence[str]) -> Figure:
    figure, (axes,) = drawing.new_figure(1, across=1, height=1.5 + 0.2 * len(labels))
    edges = [*rounds, rounds[-1] + 1]
    shown = axes.pcolormesh(edges, range(len(labels) + 1), values, cmap="viridis", norm="log")
    axes.set_yticks([place + 0.5 for place in range(len(labels))], labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("round")
    drawing.whole_numbers(axes.xaxis)
    figure.colorbar(shown, ax=axes, label="density of the layer", format=drawing.PLAIN)
    return figure


def vote_picture(votes: Sequence[int]) -> Figure:
    """How many of the round's clients hold a weight, of the weights that any of them holds.

    Args:
        votes: numbers of weights held by 0, 1, ..., K clients.
    """
    held = votes[1:]
    figure, (axes,) = drawing.new_figure(1, across=1)
    total = sum(held) or 1
    axes.bar(range(1, len(votes)), [100 * count / total for count in held], color=drawing.COLOURS[0])
    axes.set(xlabel=f"held by so many of {len(held)} clients", ylabel="% of the weights that any client holds")
    drawing.whole_numbers(axes.xaxis)
    return figure
