"""The metrics of every round: ``metrics.csv``, ``consensus.csv``, and a table in memory."""

import csv
import io
import math
from pathlib import Path
from typing import Any

from lightning.fabric.utilities import rank_zero_only

from flash_pl.callbacks.base import Callback
from flash_pl.checkpoint import write_atomically
from flash_pl.client import layer_labels
from flash_pl.errors import ConfigError, RunError
from flash_pl.loops import FederatedLoop


class MetricsCSV(Callback):
    """Writes the metrics of every round to ``directory/metrics.csv``; docs/howto/metrics.md explains the columns.

    A resumed run keeps the rows of the rounds before it.

    Args:
        directory: a folder; it is created with the first row.

    Attributes:
        table: the file and its rows.

    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), callbacks=[MetricsCSV("runs/first")])
    """

    def __init__(self, directory: str | Path) -> None:
        self.table = RoundTable(Path(directory) / "metrics.csv")

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.table.begin(loop.round)

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        self.table.append(row)


class ConsensusCSV(Callback):
    """Writes to ``directory/consensus.csv``, for every round, how far the masks agree.

    The columns are the layer densities of the server's mask (``density/LAYER``), the mismatches of each layer
    (``mismatch_clients/LAYER``, ``mismatch_server/LAYER``, ``mismatch_temporal/LAYER``), and the numbers of weights
    that are in the masks of exactly 1, 2, ... of the round's clients (``votes/1``, ``votes/2``, ...). ``TensorBoard``
    draws figures of them.

    Args:
        directory: a folder; it is created with the first row.

    Attributes:
        table: the file and its rows.

    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), callbacks=[ConsensusCSV("runs/first")])
    """

    def __init__(self, directory: str | Path) -> None:
        self.table = RoundTable(Path(directory) / "consensus.csv")

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.table.begin(loop.round)

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        votes = {f"votes/{clients}": weights for clients, weights in enumerate(loop.votes) if clients}
        self.table.append({"round": loop.round} | layer_metrics(loop) | votes)


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


class RoundTable:
    """A CSV file with one row per round, which is complete on disk after each ``append``.

    A new column may appear in any round; in other rows its cells are empty.

    Args:
        path: the file; its folder is created with the first row.

    Attributes:
        rows: all rows so far. The values are text in rows that an earlier process wrote.

    >>> import tempfile
    >>> table = RoundTable(Path(tempfile.mkdtemp()) / "metrics.csv")
    >>> table.append({"round": 1, "density": 0.05})
    >>> table.append({"round": 2, "density": 0.05, "val_acc": 0.5})
    >>> print(table.path.read_text())
    round,density,val_acc
    1,0.05,
    2,0.05,0.5
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def begin(self, round: int) -> None:
        """Start with an empty table, or keep the rows up to ``round`` of a resumed run.

        Raises:
            ConfigError: the file is not a table that a run wrote.
        """
        self.rows = self._read(round) if round and self.path.is_file() else []

    def append(self, row: dict[str, Any]) -> None:
        """Add a row and write the file.

        Raises:
            RunError: the file cannot be written.
        """
        self.rows.append(row)
        # The whole file is written each time: it is small, it may get a new column, and a kill never leaves half of it.
        columns = list(dict.fromkeys(name for written in self.rows for name in written))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self.rows)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, text.getvalue().encode())
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def _read(self, last: int) -> list[dict[str, Any]]:
        """Read the rows up to round ``last``. If a spreadsheet saved the file, it may begin with a byte order mark, and
        a round may be written as ``1.0``."""
        try:
            with open(self.path, newline="", encoding="utf-8-sig") as file:
                names, *lines = [cells for cells in csv.reader(file) if cells] or [[]]
            if "round" not in names:
                raise ValueError("there is no column round")
            position, rows = names.index("round"), list[dict[str, Any]]()
            for cells in lines:
                if (round := float(cells[position])) > last:  # trained again; the line may be incomplete
                    continue
                if len(cells) != len(names) or round != int(round):
                    raise ValueError(f"round {cells[position]} has {len(cells)} of {len(names)} cells")
                for cell in filter(None, cells):
                    float(cell)
                rows.append(dict(zip(names, cells, strict=True)) | {"round": str(int(round))})
        except (OSError, IndexError, ValueError, csv.Error) as error:
            problem = f"'{self.path}' is not a table as a run writes it ({error})"
            raise ConfigError("run_dir", problem, "it needs a row per round, with commas between numbers") from error
        return rows
