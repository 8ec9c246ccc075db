"""Sends every round to the loggers, grouped as TensorBoard shows them."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter

from flash_pl import plotting
from flash_pl.callbacks.csv import ConsensusCSV
from flash_pl.client import layer_labels
from flash_pl.loops import FederatedLoop

MODEL = {"acc": "accuracy", "accuracy": "accuracy", "loss": "loss"}
GROUPS = MODEL | {
    "bytes": "cost",
    "flops": "cost",
    "fleet": "cost",
    "late": "cost",
    "mismatch": "mask",
    "density": "mask",
    "moved": "mask",
    "mask": "mask",
    "masks": "mask",
    "seconds": "time",
}


def group(name: str, evaluated: Collection[str] = ()) -> str:
    """The group of a metric, by the words in its name.

    Args:
        evaluated: the metrics that an evaluation of the server gave; others without a group are the clients'.

    >>> group("val_acc_union"), group("mismatch_server"), group("train_f1"), group("fleet_seconds")
    ('accuracy', 'mask', 'client', 'cost')
    >>> group("val_latency", ["val_latency"]), group("translate_bleu")
    ('server', 'client')
    """
    known, other = (MODEL, "server") if name in evaluated else (GROUPS, "client")
    words = re.findall("[a-z]+", name.lower())
    return next((section for word, section in known.items() if word in words), other)


Charts = dict[str, dict[str, list[object]]]


def charts(monitor: str, tiers: Sequence[float], layers: Sequence[str]) -> Charts:
    """The layout that ``SummaryWriter.add_custom_scalars`` takes.

    Args:
        monitor: the metric that stands for accuracy.
        tiers: densities of the budget.
        layers: names of the maskable layers.
    """
    models = [monitor, f"{monitor}_union"]
    models += [f"{monitor}_d{density:g}" for density in tiers] if len(tiers) > 1 else []
    conventions = ["", "_entropy", "_bitmap", "_values"]
    return {
        "accuracy": {"server, union and tiers": _lines(f"{group(name, models)}/{name}" for name in models)},
        "bytes of a round": {
            way: _lines(f"cost/bytes_{way}{convention}" for convention in conventions) for way in ("up", "down")
        },
        "mask": {
            "mismatch": _lines(f"mask/mismatch_{kind}" for kind in ("clients", "server", "temporal")),
            "agreement": _lines(["mask/in_all_masks", "mask/in_one_mask"]),
            "layer densities": _lines(f"layer_density/{name}" for name in layers),
        },
    }


def _lines(tags: Iterable[str]) -> list[object]:
    # TensorBoard reads the tags as regular expressions.
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]


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
    if len(names) > len(plotting.COLORS):
        return _map(rounds, values, labels)
    figure, (axes,) = plotting.new_figure(1, across=1)
    for index, (label, line) in enumerate(zip(labels, values, strict=True)):
        plotting.plot_line(axes, rounds, line, None, plotting.line_style(index), label)
    axes.set(xlabel="round", ylabel="density of the layer")
    plotting.set_log_scale(axes.yaxis)
    plotting.set_integer_ticks(axes.xaxis)
    plotting.legend_below(figure, [axes])
    return figure


def _map(rounds: plotting.Array, values: plotting.Array, labels: Sequence[str]) -> Figure:
    figure, (axes,) = plotting.new_figure(1, across=1, height=1.5 + 0.2 * len(labels))
    edges = [*rounds, rounds[-1] + 1]
    shown = axes.pcolormesh(edges, range(len(labels) + 1), values, cmap="viridis", norm="log")
    axes.set_yticks([place + 0.5 for place in range(len(labels))], labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("round")
    plotting.set_integer_ticks(axes.xaxis)
    figure.colorbar(shown, ax=axes, label="density of the layer", format=plotting.PLAIN)
    return figure


def vote_picture(votes: Sequence[int]) -> Figure:
    """How many of the round's clients hold a weight, of the weights that any of them holds.

    Args:
        votes: numbers of weights held by 0, 1, ..., K clients.
    """
    held = votes[1:]
    figure, (axes,) = plotting.new_figure(1, across=1)
    total = sum(held) or 1
    axes.bar(range(1, len(votes)), [100 * count / total for count in held], color=plotting.COLORS[0])
    axes.set(xlabel=f"held by so many of {len(held)} clients", ylabel="% of the weights that any client holds")
    plotting.set_integer_ticks(axes.xaxis)
    return figure


COPIED = {"clients", "batch_size", "seed", "alpha", "density"}  # keys of the top level that components take over


def config_text(config: Mapping[str, Any]) -> str:
    """The config as a block of YAML in Markdown."""
    return f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(dict(config)))}```"


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """What may differ between experiments, as dotted keys and plain values; what is nested in lists becomes text.

    Left out are the machine's settings, the class of what has a name, and a component's copy of a top-level key; a
    value of its own stays.

    >>> scheduler = {"name": "nst", "class_path": "flash_pl.NST", "init_args": {"prune_rate": 0.2}}
    >>> hyperparameters({"seed": 1, "scheduler": scheduler, "data": {"init_args": {"seed": 1}}, "wire": {}})
    {'seed': 1, 'scheduler.name': 'nst', 'scheduler.prune_rate': 0.2}
    >>> hyperparameters({"seed": 1, "data": {"init_args": {"seed": 2}}})
    {'seed': 1, 'data.seed': 2}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("trainer", "wire"):
            continue
        leaves = _leaves(value, key) if isinstance(value, Mapping) else {key: value}
        found |= {name: leaf for name, leaf in leaves.items() if name == key or not _is_copy(name, leaf, config)}
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in found.items()}


def _is_copy(name: str, value: Any, config: Mapping[str, Any]) -> bool:
    last = name.rpartition(".")[2]
    return last in COPIED and last in config and config[last] == value


def _leaves(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == "class_path" and "name" in node:
            continue
        name = prefix if key == "init_args" else f"{prefix}.{key}"
        found |= _leaves(value, name) if isinstance(value, Mapping) else {name: value}
    return found


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
        final |= {"MB_up": loop.ledger.totals["bytes_up"] / 1e6, "MB_down": loop.ledger.totals["bytes_down"] / 1e6}
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
