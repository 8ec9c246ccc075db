"""The figures of a run in TensorBoard."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flash_pl import plotting

WIDTH, HEIGHT = 4.2, 2.8  # inches; TensorBoard shows a figure 350 pixels wide, where larger ones have tiny letters
DPI = 160


def density_figure(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw the density of every layer over the rounds: one line per layer, or a heat map if there are many layers.

    Args:
        rows: the rows of consensus.csv.

    Returns:
        None if no density has changed.

    >>> density_figure([{"round": 1, "density/fc1": 0.1}, {"round": 2, "density/fc1": 0.1}])
    """
    names = [name for name in rows[-1] if name.startswith("density/")]
    layers = [name.removeprefix("density/") for name in names]
    rounds = np.array([float(row["round"]) for row in rows])
    densities = np.array([[100 * float(row[name]) for row in rows] for name in names])
    if (densities == densities[:, :1]).all():
        return None
    title = f"Active weights of each layer, rounds {rounds[0]:g} to {rounds[-1]:g}"
    if len(layers) > len(plotting.COLORS):
        return _heat_map(rounds, densities, layers, title)
    figure, (axes,) = plotting.new_figure(1, across=1)
    _fit(figure, HEIGHT)
    for index, (layer, line) in enumerate(zip(layers, densities, strict=True)):
        plotting.plot_line(axes, rounds, line, None, plotting.line_style(index), layer)
    axes.set(xlabel="round", ylabel="active weights, %")
    _set_title(axes, title)
    plotting.set_log_scale(axes.yaxis)
    plotting.set_integer_ticks(axes.xaxis)
    plotting.legend_below(figure, [axes])
    return figure


def _heat_map(rounds: plotting.Array, densities: plotting.Array, layers: Sequence[str], title: str) -> Figure:
    """Draw ``densities`` ``[layers, rounds]`` as colors: rounds from left to right, layers from top to bottom."""
    figure, (axes,) = plotting.new_figure(1, across=1)
    _fit(figure, 1.2 + 0.15 * len(layers))
    edges = [*rounds, rounds[-1] + 1]
    mesh = axes.pcolormesh(edges, range(len(layers) + 1), densities, cmap="viridis", norm="log")
    axes.set_yticks([index + 0.5 for index in range(len(layers))], layers, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("round")
    _set_title(axes, title)
    plotting.set_integer_ticks(axes.xaxis)
    figure.colorbar(mesh, ax=axes, label="active weights, %", format=plotting.PLAIN)
    return figure


def vote_figure(votes: Sequence[int], round: int) -> Figure | None:
    """Draw how many of the round's clients have a weight in their mask, over the weights that any client has.

    Args:
        votes: the numbers of weights that are in the masks of 0, 1, ..., K clients.
        round: the round of the votes.

    Returns:
        None if all clients have the same mask.

    >>> vote_figure([90, 0, 0, 10], round=1)
    """
    weights = votes[1:]
    if not any(weights[:-1]):
        return None
    figure, (axes,) = plotting.new_figure(1, across=1)
    _fit(figure, HEIGHT)
    axes.bar(range(1, len(votes)), [100 * count / sum(weights) for count in weights], color=plotting.COLORS[0])
    axes.set(xlabel=f"clients with the weight in their mask, of {len(weights)}", ylabel="weights in any mask, %")
    _set_title(axes, f"How many clients share a weight, round {round}")
    plotting.set_integer_ticks(axes.xaxis)
    return figure


def _fit(figure: Figure, height: float) -> None:
    """Give a figure the size in which TensorBoard's letters can be read."""
    figure.set_size_inches(WIDTH, height)
    figure.set_dpi(DPI)


def _set_title(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
