"""The metrics of every round: ``metrics.csv``, ``consensus.csv``, and a table in memory."""

import math
from pathlib import Path
from typing import Any

from lightning.fabric.utilities import rank_zero_only

from flash_pl.callbacks.base import Callback
from flash_pl.callbacks.round_table import RoundTable
from flash_pl.client import layer_labels
from flash_pl.loops import FederatedLoop


class MetricsCSV(Callback):
    """Writes the metrics of every round to ``directory/metrics.csv``; docs/howto/metrics.md explains the columns.

    A resumed run keeps the rows of the rounds before it.

    Args:
        directory: a folder; it is created with the first row.

    Attributes:
        table: the file.

    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), callbacks=[MetricsCSV("runs/first")])
    """

    def __init__(self, directory: str | Path) -> None:
        self.table = RoundTable(Path(directory) / "metrics.csv")

    @rank_zero_only
    def on_run_start(self, loop: FederatedLoop) -> None:
        self.table.begin(loop.round)

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        self.table.append(row)

    def on_save_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        self.table.sync()  # a resumed run needs the rows of the rounds before it

    @rank_zero_only
    def on_run_end(self, loop: FederatedLoop) -> None:
        self.table.sync()


class ConsensusCSV(Callback):
    """Writes to ``directory/consensus.csv``, for every round, how far the masks agree.

    The columns are the layer densities of the server's mask (``density/LAYER``), the mismatches of each layer
    (``mismatch_clients/LAYER``, ``mismatch_server/LAYER``, ``mismatch_temporal/LAYER``), and the numbers of weights
    that are in the masks of exactly 1, 2, ... of the round's clients (``votes/1``, ``votes/2``, ...). ``TensorBoard``
    draws figures of them.

    Args:
        directory: a folder; it is created with the first row.

    Attributes:
        table: the file.

    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), callbacks=[ConsensusCSV("runs/first")])
    """

    def __init__(self, directory: str | Path) -> None:
        self.table = RoundTable(Path(directory) / "consensus.csv")

    @rank_zero_only
    def on_run_start(self, loop: FederatedLoop) -> None:
        self.table.begin(loop.round)

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        votes = {f"votes/{clients}": weights for clients, weights in enumerate(loop.votes) if clients}
        self.table.append({"round": loop.round} | layer_metrics(loop) | votes)

    def on_save_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        self.table.sync()  # a resumed run needs the rows of the rounds before it

    @rank_zero_only
    def on_run_end(self, loop: FederatedLoop) -> None:
        self.table.sync()


def layer_metrics(loop: FederatedLoop) -> dict[str, float]:
    """Return the density and the mismatches of each layer after a round, as ``density/LAYER``, ..."""
    layout = loop.server.layout
    metrics = {"density": layout.densities(loop.server.mask).tolist()} | loop.layer_mismatch
    layers = layer_labels(layout)
    return {
        f"{name}/{layer}": value
        for name, values in metrics.items()
        for layer, value in zip(layers, values, strict=True)
    }


class History(Callback):
    """Keeps the rows of metrics.csv in memory, for a notebook that plots them.

    >>> from torch import nn
    >>> from flash_pl import PDST, Classifier, FederatedTrainer
    >>> from flash_pl.callbacks import History
    >>> from flash_pl.data import Synthetic
    >>> history = History()
    >>> trainer = FederatedTrainer(PDST(), density=0.1, rounds=3, cohort=2, callbacks=[history], accelerator="cpu")
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    >>> loop = trainer.fit(Classifier(network, classes=10), Synthetic(samples=200, clients=4))
    >>> history["round"], history["participants"]
    ([1, 2, 3], [2, 2, 2])

    Attributes:
        rows: the metrics of each round, by name. A resumed run continues the rows that this object has seen.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.rows = [row for row in self.rows if row["round"] <= loop.round]

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        self.rows.append(row)

    def __getitem__(self, name: str) -> list[float]:
        """The values of a metric in all rounds; NaN in rounds without it.

        Raises:
            KeyError: no round has this metric.
        """
        if not any(name in row for row in self.rows):
            raise KeyError(name)
        return [row.get(name, math.nan) for row in self.rows]
