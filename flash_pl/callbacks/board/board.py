"""Sends every round to the loggers, grouped as TensorBoard shows them."""

from collections.abc import Mapping
from typing import Any

from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from flash_pl.callbacks.board.charts import charts
from flash_pl.callbacks.board.groups import group
from flash_pl.callbacks.board.pictures import density_picture, vote_picture
from flash_pl.callbacks.board.run_facts import config_text, hyperparameters
from flash_pl.callbacks.consensus_csv import ConsensusCSV
from flash_pl.client import layer_labels
from flash_pl.loops import FederatedLoop

PICTURES = 10  # of each kind over a run


class Board:
    """Scalars by group (``accuracy/``, ``loss/``, ``server/``, ``mask/``, ...) and layer densities for every logger.

    A TensorBoard logger also gets charts that overlay the tiers and the ways to count bytes (the tab "Custom Scalars"),
    pictures of the layer densities over the rounds and of the votes, the config as text, accuracy by kilobytes sent up
    and by simulated milliseconds in place of rounds (``accuracy_by_kB_up/``, ``accuracy_by_fleet_ms/``), and at the end
    the config with the final metrics, so that runs compare in the tab "HParams".

    Args:
        config: the resolved config.
        consensus: keeps the rows from which the pictures are drawn; None draws none.
        monitor: the metric that the final metrics call accuracy.
    """

    def __init__(
        self, config: Mapping[str, Any] | None = None, consensus: ConsensusCSV | None = None, monitor: str = "val_acc"
    ) -> None:
        self.config, self.consensus, self.monitor = config or {}, consensus, monitor

    def on_run_start(self, loop: FederatedLoop) -> None:
        for writer in self._writers(loop):
            tiers = [tier.density for tier in loop.plan.budget.tiers]
            writer.add_custom_scalars(charts(self.monitor, tiers, layer_labels(loop.server.layout)))
            if self.config:
                writer.add_text("config", config_text(self.config))

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        evaluated = {*loop.evaluated, self.monitor}
        scalars = {f"{group(name, evaluated)}/{name}": value for name, value in row.items() if name != "round"}
        layout = loop.server.layout
        of_layers = {"density": layout.densities(loop.server.mask).tolist()} | loop.layer_mismatch
        for kind, values in of_layers.items():
            scalars |= {f"layer_{kind}/{name}": v for name, v in zip(layer_labels(layout), values, strict=True)}
        loop.fabric.log_dict(scalars, step=loop.round)
        for writer in self._writers(loop):
            self._by_cost(writer, row)
            if loop.round % max(1, loop.plan.rounds // PICTURES) == 0 or loop.done:
                self._draw(writer, loop)

    def on_run_end(self, loop: FederatedLoop) -> None:
        if not self.config:
            return
        row = loop.metrics
        final = {"accuracy": row.get(self.monitor), "accuracy_union": row.get(f"{self.monitor}_union")}
        final |= {"MB_up": loop.accounts.totals["bytes_up"] / 1e6, "MB_down": loop.accounts.totals["bytes_down"] / 1e6}
        final |= {name: row.get(name) for name in ("flops_total", "fleet_seconds_total", "mismatch_clients")}
        known = {f"final/{name}": value for name, value in final.items() if value is not None}
        for logger in _boards(loop):
            logger.log_hyperparams(hyperparameters(self.config), known, step=loop.round)

    def _by_cost(self, writer: SummaryWriter, row: Mapping[str, float]) -> None:
        axes = {"kB_up": row.get("bytes_up_total", 0) / 1e3, "fleet_ms": 1e3 * row.get("fleet_seconds_total", 0)}
        for axis, value in axes.items():
            for name in (self.monitor, f"{self.monitor}_union"):
                if value and name in row:
                    writer.add_scalar(f"accuracy_by_{axis}/{name}", row[name], round(value))

    def _draw(self, writer: SummaryWriter, loop: FederatedLoop) -> None:
        if self.consensus is not None and self.consensus.table.rows:
            writer.add_figure("mask/layer_densities", density_picture(self.consensus.table.rows), loop.round)
            if len(loop.votes) > 1:
                writer.add_figure("mask/votes", vote_picture(loop.votes), loop.round)

    @staticmethod
    def _writers(loop: FederatedLoop) -> list[SummaryWriter]:
        """Those of the TensorBoard loggers, on the rank that writes."""
        return [logger.experiment for logger in _boards(loop)] if loop.ranks.rank == 0 else []


def _boards(loop: FederatedLoop) -> list[TensorBoardLogger]:
    return [logger for logger in loop.fabric.loggers if isinstance(logger, TensorBoardLogger)]
