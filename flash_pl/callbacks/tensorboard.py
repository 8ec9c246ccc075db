"""What TensorBoard gets from a run: curves, charts, figures, tables, and the settings with the final metrics."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.fabric.loggers.tensorboard import TensorBoardLogger

from flash_pl.callbacks.base import Callback
from flash_pl.callbacks.csv import ConsensusCSV, layer_metrics
from flash_pl.callbacks.loggers import LoggerGuard, facts, hyperparameters, leaves
from flash_pl.callbacks.metric_names import grouped, meaning, tag
from flash_pl.callbacks.tensorboard_curves import Curves, drawn_before, write_descriptions, write_scalars
from flash_pl.callbacks.tensorboard_figures import density_figure, vote_figure
from flash_pl.callbacks.tensorboard_tables import (
    constants_table,
    experiment,
    finished,
    layer_table,
    main_settings,
    settings_list,
)
from flash_pl.client import coverage, layer_labels
from flash_pl.loops import FederatedLoop

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FIGURES = 10  # how often in a run each figure is drawn


class TensorBoard(Callback):
    """Sends to the TensorBoard loggers of the run

    - the metrics and layer densities of every round, grouped as in ``metric_names``, each with a description. A metric
      that is the same in all rounds has no chart; the text ``constants`` has it;
    - accuracy against kilobytes sent up and against simulated milliseconds in place of rounds (``tradeoff/``);
    - charts that compare tiers, or ways to count bytes, in the tab "Custom Scalars";
    - figures of the layer densities and of the votes, where masks change or differ;
    - tables of the settings and of the layers in the tab "Text";
    - the main settings with the metrics of the last round in the tab "HParams".

    A resumed run replaces what an earlier process wrote about later rounds, so that every step appears once.

    Args:
        config: the resolved config. Without it the settings are those of trainer, module and data.
        consensus: the callback whose table the figures show; None draws no figures.
        monitor: the metric that the charts and the tab "HParams" show as the accuracy.
        mode: "max" if larger values of the monitor are better, or "min".
        given: what the user has set, as nested keys like those of the config; the tables mark it.

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
        self,
        config: Mapping[str, Any] | None = None,
        consensus: ConsensusCSV | None = None,
        monitor: str = "val_acc",
        mode: str = "max",
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.consensus, self.monitor, self.mode = config or {}, consensus, monitor, mode
        self.given = [key for name, value in (given or {}).items() for key in leaves(value, name)]
        self.guard = LoggerGuard()
        self.curves = Curves()
        self._best: float | None = None  # value of the monitor
        self._described: set[str] = set()  # tags that TensorBoard has a description of
        self._layers = ""  # the table that was written last
        # Accuracies against costs by tag: step, value, step, value, ... A long run has many, so they take 8 bytes each.
        self._by_cost: dict[str, array[float]] = {}

    def on_load_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        self._by_cost = {
            name: array("d", points.tolist()) for name, points in state.get("accuracy_by_cost", {}).items()
        }
        self._best = state.get("best_so_far")
        self.curves.load(state.get("held_scalars", {}))

    def on_save_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        state["accuracy_by_cost"] = {name: torch.from_numpy(np.array(points)) for name, points in self._by_cost.items()}
        state["best_so_far"] = self._best
        state["held_scalars"] = self.curves.state()

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.guard = LoggerGuard()
        first = loop.round + 1 if loop.round else 0  # the first step that this run writes
        held = self.curves.held if loop.round else {}
        if not loop.round:
            self._by_cost, self._best = {}, None
        # A dense model has the mismatch 0 in all rounds, which is no curve.
        always = [name for name in self._columns(loop) if loop.scheduler.has_target or not name.startswith("mask/")]
        self.curves = Curves(always=always)
        self.curves.held = held
        self._described, self._layers = set(), ""
        for logger in _tensorboard_loggers(loop):
            writer = logger.experiment
            continued = _has_earlier_files(writer)
            if continued and first:
                self.curves.resume(first, drawn_before(writer.log_dir, first))
            if continued or first:
                self._replace_from(writer, first)
            if not (continued and first):
                self._write_settings(writer, loop)
                if loop.has_mask:
                    writer.add_text("layers", _layers(loop), loop.round)

    def _columns(self, loop: FederatedLoop) -> dict[str, str]:
        """The metrics of the tab "HParams", by tag with their titles; TensorBoard shows the first five at once."""
        columns = {self.monitor: "final accuracy", f"{self.monitor}_best": "best accuracy"}
        if "acc" not in self.monitor:
            columns = {self.monitor: f"final {self.monitor}", f"{self.monitor}_best": f"best {self.monitor}"}
        columns |= {"bytes_up_total": "MB up", "flops_total": "GFLOPs", "mismatch_clients": "mismatch of clients"}
        columns |= {"bytes_down_total": "MB down"}
        if loop.ledger.clock is not None:
            columns |= {"fleet_seconds_total": "simulated seconds"}
        return {tag(name, self._evaluated(loop)): title for name, title in columns.items()}

    def _evaluated(self, loop: FederatedLoop) -> set[str]:
        return {*loop.evaluated, self.monitor, f"{self.monitor}_best"}

    def _write_settings(self, writer: SummaryWriter, loop: FederatedLoop) -> None:
        writer.add_custom_scalars(charts(self.monitor))
        settings = hyperparameters(self.config, everything=True) if self.config else facts(loop)
        writer.add_text("config", settings_list(settings, self.given))
        columns = main_settings(settings, self.given)
        if not loop.scheduler.has_target:
            columns["density"] = 1.0
        for summary in experiment(columns, self._columns(loop)):
            writer._get_file_writer().add_summary(summary, 0)

    def on_first_mask(self, loop: FederatedLoop) -> None:
        """Write the table of layers, unless it is the one that was written last."""
        table = _layers(loop)
        if table != self._layers:
            self._layers = table
            for logger in self.guard.working(_tensorboard_loggers(loop)):
                with self.guard(logger):
                    logger.experiment.add_text("layers", table, loop.round)

    def _replace_from(self, writer: SummaryWriter, first: int) -> None:
        """Make readers forget the steps from ``first`` on that earlier files hold.

        The steps of accuracies against costs are no rounds: those of the rounds before are written anew.
        """
        writer.close()
        writer.purge_step = first  # the next value opens a new file that begins with it
        for name, points in self._by_cost.items():
            for step, value in zip(points[::2], points[1::2], strict=True):
                if step >= first:
                    writer.add_scalar(name, value, int(step))

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        evaluated, layers = self._evaluated(loop), layer_metrics(loop)
        self._update_best(row.get(self.monitor))
        best = {f"{self.monitor}_best": self._best} if self.monitor in row and self._best is not None else {}
        points = self.curves.add(loop.round, grouped({**row, **best}, layers, evaluated))
        new = {name: "" for values in points.values() for name in values if name not in self._described}
        if new:
            texts = self._descriptions(loop, row, layers)
            new = {name: texts.get(name, "") for name in new}
            self._described.update(new)
        by_cost = self._accuracy_by_cost(row)
        for logger in self.guard.working(_tensorboard_loggers(loop)):
            with self.guard(logger):
                if new:
                    write_descriptions(logger.experiment, min(points), new)
                for step, values in points.items():
                    write_scalars(logger.experiment, step, values)
                for name, (step, value) in by_cost.items():
                    logger.experiment.add_scalar(name, value, step)
                if loop.round % max(1, loop.plan.rounds // FIGURES) == 0 or loop.done:
                    self._add_figures(logger.experiment, loop)

    def _update_best(self, value: float | None) -> None:
        if value is not None and not isnan(value):
            better = max if self.mode == "max" else min
            self._best = value if self._best is None else better(self._best, value)

    def _descriptions(self, loop: FederatedLoop, row: Mapping[str, float], layers: Iterable[str]) -> dict[str, str]:
        evaluated = self._evaluated(loop)
        texts = {tag(name, evaluated): meaning(name, evaluated) for name in [*row, f"{self.monitor}_best"]}
        return texts | {f"per_layer/{name}": meaning(name) for name in layers}

    def on_run_end(self, loop: FederatedLoop) -> None:
        constants = {name: value for name, (_, _, value) in self.curves.held.items()}
        texts = self._descriptions(loop, loop.metrics, layer_metrics(loop))
        self.on_first_mask(loop)
        for logger in self.guard.working(_tensorboard_loggers(loop)):
            with self.guard(logger):
                writer = logger.experiment
                if constants:
                    writer.add_text("constants", constants_table(constants, texts), loop.round)
                writer._get_file_writer().add_summary(finished(), loop.round)

    def _accuracy_by_cost(self, row: Mapping[str, float]) -> dict[str, tuple[int, float]]:
        """The new points of accuracy against costs, if the costs have grown."""
        costs = {"kB_up": row.get("bytes_up_total", 0) / 1e3, "fleet_ms": 1e3 * row.get("fleet_seconds_total", 0)}
        new: dict[str, tuple[int, float]] = {}
        for cost, value in costs.items():
            name, step = f"tradeoff/{self.monitor}_by_{cost}", round(value)
            points = self._by_cost.setdefault(name, array("d"))
            if self.monitor in row and step > (points[-2] if points else 0):
                points.extend((step, row[self.monitor]))
                new[name] = step, row[self.monitor]
        return new

    def _add_figures(self, writer: SummaryWriter, loop: FederatedLoop) -> None:
        if self.consensus is not None and (rows := self.consensus.table.rows()):
            figures = {"mask/layer_densities": density_figure(rows), "mask/votes": vote_figure(loop.votes, loop.round)}
            for name, figure in figures.items():
                if figure is not None:
                    writer.add_figure(name, figure, loop.round)


def _tensorboard_loggers(loop: FederatedLoop) -> list[TensorBoardLogger]:
    """The TensorBoard loggers on rank 0, none on other ranks."""
    loggers = loop.fabric.loggers if loop.ranks.rank == 0 else []
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]


def _layers(loop: FederatedLoop) -> str:
    """The table of the layers as they are now."""
    layout = loop.server.layout
    densities = layout.densities(loop.server.mask).tolist()
    return layer_table(layer_labels(layout), layout.sizes.tolist(), densities, coverage(loop.client))


def _has_earlier_files(writer: SummaryWriter) -> bool:
    """Whether the writer's folder has event files besides the one that is open."""
    files = list(Path(writer.log_dir).glob("events.out.tfevents.*"))
    return len(files) > (writer.file_writer is not None)


Charts = dict[str, dict[str, list[object]]]


def charts(monitor: str) -> Charts:
    """Return the charts of the tab "Custom Scalars", as ``SummaryWriter.add_custom_scalars`` takes them.

    TensorBoard merges the charts of all runs and shows equal ones once. Therefore tiers and layers, which differ
    between runs, are found by a pattern.

    Args:
        monitor: the metric that is shown as the accuracy.
    """
    conventions = ["", "_entropy", "_bitmap", "_values"]
    return {
        "accuracy": {f"{monitor} of server, union and tiers": ["Multiline", [_models(monitor)]]},
        "MB of a round, counted in four ways": {
            way: _multiline(tag(f"bytes_{way}{convention}") for convention in conventions) for way in ("up", "down")
        },
        "mask": {
            "mismatch": _multiline(f"mask/mismatch_{kind}" for kind in ("clients", "server", "temporal")),
            "agreement": _multiline(["mask/in_all_masks", "mask/in_one_mask"]),
            "layer densities": ["Multiline", ["^per_layer/density/.+$"]],
        },
    }


def _models(monitor: str) -> str:
    """The pattern of a metric of the server's model, the union and the tiers."""
    return f"^{re.escape(tag(monitor, [monitor]))}(_union|_d[0-9][0-9.e-]*)?$"


def _multiline(tags: Iterable[str]) -> list[object]:
    # TensorBoard reads the tags as regular expressions.
    return ["Multiline", [f"^{re.escape(name)}$" for name in tags]]
