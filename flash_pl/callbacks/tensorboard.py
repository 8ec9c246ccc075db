"""What only TensorBoard can show: charts, figures, accuracy against costs, settings with the final metrics."""

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from flash_pl import plotting
from flash_pl.callbacks.base import Callback
from flash_pl.callbacks.csv import ConsensusCSV
from flash_pl.callbacks.loggers import LoggerGuard, facts, final_metrics, group, hyperparameters
from flash_pl.client import coverage, layer_labels
from flash_pl.loops import FederatedLoop
from flash_pl.yaml12 import dump

FIGURES = 10  # how often in a run each figure is drawn


class TensorBoard(Callback):
    """Sends to the TensorBoard loggers of the run, besides the metrics that all loggers get from ``Loggers``:

    - charts that compare tiers, or ways to count bytes, in the tab "Custom Scalars";
    - accuracy against kilobytes sent up (``accuracy_by_kB_up/``) and against simulated milliseconds
      (``accuracy_by_fleet_ms/``) in place of rounds;
    - figures of the layer densities and of the votes;
    - the config and the number of maskable weights as text;
    - at the end the settings with the final metrics in the tab "HParams".

    A resumed run replaces what an earlier process wrote about later rounds, so that every step appears once.

    Args:
        config: the resolved config, which is shown as a text. Without it there is no such text, and the settings shown
            are those of trainer, module and data.
        consensus: the callback whose table the figures show; None draws no figures.
        monitor: the metric that the charts and the final metrics show as the accuracy.

    >>> import tempfile
    >>> from lightning.fabric.loggers import TensorBoardLogger
    >>> from flash_pl import PDST, FederatedTrainer
    >>> from flash_pl.callbacks import ConsensusCSV, TensorBoard
    >>> folder = tempfile.mkdtemp()
    >>> consensus = ConsensusCSV(folder)
    >>> callbacks = [consensus, TensorBoard(consensus=consensus)]
    >>> trainer = FederatedTrainer(PDST(), callbacks=callbacks, logger=TensorBoardLogger(folder))
    """

    def __init__(
        self, config: Mapping[str, Any] | None = None, consensus: ConsensusCSV | None = None, monitor: str = "val_acc"
    ) -> None:
        self.config, self.consensus, self.monitor = config or {}, consensus, monitor
        self.guard = LoggerGuard()
        # Accuracies against costs by tag: step, value, step, value, ... A long run has many, so they take 8 bytes each.
        self._by_cost: dict[str, array[float]] = {}

    def on_load_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        self._by_cost = {tag: array("d", points.tolist()) for tag, points in state.get("accuracy_by_cost", {}).items()}

    def on_save_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        state["accuracy_by_cost"] = {tag: torch.from_numpy(np.array(points)) for tag, points in self._by_cost.items()}

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.guard = LoggerGuard()
        first = loop.round + 1 if loop.round else 0  # the first step that this run writes
        if not loop.round:
            self._by_cost = {}
        for writer in (logger.experiment for logger in _tensorboard_loggers(loop)):
            continued = _has_earlier_files(writer)
            if continued or first:
                self._replace_from(writer, first)
            if not (continued and first):
                tiers = [tier.density for tier in loop.plan.budget.tiers]
                writer.add_custom_scalars(charts(self.monitor, tiers, layer_labels(loop.server.layout)))
                writer.add_text("weights", coverage(loop.client))
            if self.config:
                writer.add_text("config", f"```yaml\n{dump(dict(self.config))}```", first)

    def _replace_from(self, writer: SummaryWriter, first: int) -> None:
        """Make readers forget the steps from ``first`` on that earlier files hold.

        The steps of accuracies against costs are no rounds: those of the rounds before are written anew.
        """
        writer.close()
        writer.purge_step = first  # the next value opens a new file that begins with it
        for tag, points in self._by_cost.items():
            for step, value in zip(points[::2], points[1::2], strict=True):
                if step >= first:
                    writer.add_scalar(tag, value, int(step))

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        points = self._accuracy_by_cost(row)
        for logger in self.guard.working(_tensorboard_loggers(loop)):
            with self.guard(logger):
                for tag, (step, value) in points.items():
                    logger.experiment.add_scalar(tag, value, step)
                if loop.round % max(1, loop.plan.rounds // FIGURES) == 0 or loop.done:
                    self._add_figures(logger.experiment, loop)

    def on_run_end(self, loop: FederatedLoop) -> None:
        settings = hyperparameters(self.config) if self.config else facts(loop)
        for logger in self.guard.working(_tensorboard_loggers(loop)):
            with self.guard(logger):
                logger.log_hyperparams(settings, final_metrics(loop, self.monitor), step=loop.round)

    def _accuracy_by_cost(self, row: Mapping[str, float]) -> dict[str, tuple[int, float]]:
        """The new points of accuracy against costs, if the costs have grown."""
        costs = {"kB_up": row.get("bytes_up_total", 0) / 1e3, "fleet_ms": 1e3 * row.get("fleet_seconds_total", 0)}
        new: dict[str, tuple[int, float]] = {}
        for cost, value in costs.items():
            for name in (self.monitor, f"{self.monitor}_union"):
                points, step = self._by_cost.setdefault(f"accuracy_by_{cost}/{name}", array("d")), round(value)
                if name in row and step > (points[-2] if points else 0):
                    points.extend((step, row[name]))
                    new[f"accuracy_by_{cost}/{name}"] = step, row[name]
        return new

    def _add_figures(self, writer: SummaryWriter, loop: FederatedLoop) -> None:
        if self.consensus is not None and (rows := self.consensus.table.rows()):
            writer.add_figure("mask/layer_densities", density_figure(rows), loop.round)
            if len(loop.votes) > 1:
                writer.add_figure("mask/votes", vote_figure(loop.votes), loop.round)


def _tensorboard_loggers(loop: FederatedLoop) -> list[TensorBoardLogger]:
    """The TensorBoard loggers on rank 0, none on other ranks."""
    loggers = loop.fabric.loggers if loop.ranks.rank == 0 else []
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]


def _has_earlier_files(writer: SummaryWriter) -> bool:
    """Whether the writer's folder has event files besides the one that is open."""
    files = list(Path(writer.log_dir).glob("events.out.tfevents.*"))
    return len(files) > (writer.file_writer is not None)


Charts = dict[str, dict[str, list[object]]]


def charts(monitor: str, tiers: Sequence[float], layers: Sequence[str]) -> Charts:
    """Return the charts of the tab "Custom Scalars", as ``SummaryWriter.add_custom_scalars`` takes them.

    Args:
        monitor: the metric that is shown as the accuracy.
        tiers: densities of the budget's tiers.
        layers: names of the maskable layers.
    """
    models = [monitor, f"{monitor}_union"]
    models += [f"{monitor}_d{density:g}" for density in tiers] if len(tiers) > 1 else []
    conventions = ["", "_entropy", "_bitmap", "_values"]
    return {
        "accuracy": {"server, union and tiers": _multiline(f"{group(name, models)}/{name}" for name in models)},
        "bytes of a round": {
            way: _multiline(f"cost/bytes_{way}{convention}" for convention in conventions) for way in ("up", "down")
        },
        "mask": {
            "mismatch": _multiline(f"mask/mismatch_{kind}" for kind in ("clients", "server", "temporal")),
            "agreement": _multiline(["mask/in_all_masks", "mask/in_one_mask"]),
            "layer densities": _multiline(f"layer_density/{layer}" for layer in layers),
        },
    }


def _multiline(tags: Iterable[str]) -> list[object]:
    # TensorBoard reads the tags as regular expressions.
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]


def density_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the density of every layer over the rounds: one line per layer, or a heat map if there are many layers.

    Args:
        rows: the rows of consensus.csv.
    """
    names = [name for name in rows[-1] if name.startswith("density/")]
    layers = [name.removeprefix("density/") for name in names]
    rounds = np.array([float(row["round"]) for row in rows])
    densities = np.array([[float(row[name]) for row in rows] for name in names])
    if len(layers) > len(plotting.COLORS):
        return _heat_map(rounds, densities, layers)
    figure, (axes,) = plotting.new_figure(1, across=1)
    for index, (layer, line) in enumerate(zip(layers, densities, strict=True)):
        plotting.plot_line(axes, rounds, line, None, plotting.line_style(index), layer)
    axes.set(xlabel="round", ylabel="density of the layer")
    plotting.set_log_scale(axes.yaxis)
    plotting.set_integer_ticks(axes.xaxis)
    plotting.legend_below(figure, [axes])
    return figure


def _heat_map(rounds: plotting.Array, densities: plotting.Array, layers: Sequence[str]) -> Figure:
    """Draw ``densities`` ``[layers, rounds]`` as colors: rounds from left to right, layers from top to bottom."""
    figure, (axes,) = plotting.new_figure(1, across=1, height=1.5 + 0.2 * len(layers))
    edges = [*rounds, rounds[-1] + 1]
    mesh = axes.pcolormesh(edges, range(len(layers) + 1), densities, cmap="viridis", norm="log")
    axes.set_yticks([index + 0.5 for index in range(len(layers))], layers, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("round")
    plotting.set_integer_ticks(axes.xaxis)
    figure.colorbar(mesh, ax=axes, label="density of the layer", format=plotting.PLAIN)
    return figure


def vote_figure(votes: Sequence[int]) -> Figure:
    """Draw how many of the round's clients have a weight in their mask, over the weights that any client has.

    Args:
        votes: the numbers of weights that are in the masks of 0, 1, ..., K clients.
    """
    weights = votes[1:]
    total = sum(weights) or 1
    figure, (axes,) = plotting.new_figure(1, across=1)
    axes.bar(range(1, len(votes)), [100 * count / total for count in weights], color=plotting.COLORS[0])
    axes.set_xlabel(f"clients with the weight in their mask, of {len(weights)}")
    axes.set_ylabel("% of the weights in any client's mask")
    plotting.set_integer_ticks(axes.xaxis)
    return figure
