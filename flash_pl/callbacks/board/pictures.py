"""Pictures of the mask: layer densities over the rounds, and how many clients hold a weight."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")  # Okabe and Ito 2008


def density_picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Density of every layer after each round, on a logarithmic axis.

    With few layers a line each; a deep network's are a map, rounds to the right and layers down.

    Args:
        rows: of consensus.csv.
    """
    names = [name for name in rows[-1] if name.startswith("density/")]
    rounds = [int(row["round"]) for row in rows]
    values = [[float(row[name]) for row in rows] for name in names]
    labels = [name.partition("/")[2] for name in names]
    figure = Figure(figsize=(7, 4 if len(names) <= len(COLOURS) else 1.5 + 0.22 * len(names)), layout="constrained")
    axes = figure.subplots()
    if len(names) <= len(COLOURS):
        for label, line, colour in zip(labels, values, COLOURS, strict=False):
            axes.plot(rounds, line, label=label, color=colour, marker="." if len(rounds) < 30 else None)
        axes.set(ylabel="density", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda density, _: f"{density:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False)
    else:
        edges = [*rounds, rounds[-1] + 1]
        shown = axes.pcolormesh(edges, range(len(names) + 1), values, cmap="viridis", norm="log")
        axes.set_yticks([place + 0.5 for place in range(len(names))], labels, fontsize=7)
        axes.invert_yaxis()
        figure.colorbar(shown, ax=axes, label="density")
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def vote_picture(votes: Sequence[int]) -> Figure:
    """How many of the round's clients hold a weight, of the weights that any of them holds.

    Args:
        votes: numbers of weights held by 0, 1, ..., K clients.
    """
    held = votes[1:]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    total = sum(held) or 1
    axes.bar(range(1, len(votes)), [100 * count / total for count in held], color=COLOURS[0])
    axes.set(xlabel=f"held by so many of {len(held)} clients", ylabel="% of the weights that any client holds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, axis="y")
    return figure
