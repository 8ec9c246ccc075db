"""Every round's metrics in memory."""

import csv
import io
import math
from pathlib import Path
from typing import Any

from lightning.fabric.utilities import rank_zero_only

from flash_pl.checkpoint import write_whole
from flash_pl.client import layer_labels
from flash_pl.errors import ConfigError, RunError
from flash_pl.loops import FederatedLoop


class RoundTable:
    """The rows of a CSV file by round, on disk after each ``append``; what a row lacks is an empty cell.

    Args:
        path: of the file; its folder is created with the first row.

    Attributes:
        rows: all so far. Those of an earlier process hold text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def begin(self, round: int) -> None:
        """Start afresh, or for a resumed run keep the rows up to ``round``.

        Raises:
            ConfigError: the file is not as a run has written it.
        """
        self.rows = self._read(round) if round and self.path.is_file() else []

    def _read(self, last: int) -> list[dict[str, Any]]:
        """The rows up to a round; a spreadsheet may have put a byte order mark before them and ``1.0`` for a round."""
        try:
            with open(self.path, newline="", encoding="utf-8-sig") as file:
                names, *rows = [row for row in csv.reader(file) if row] or [[]]
            if "round" not in names:
                raise ValueError("no column round")
            place, kept = names.index("round"), list[dict[str, Any]]()
            for row in rows:
                if (number := float(row[place])) > last:  # is trained again, and may be cut
                    continue
                if len(row) != len(names) or number != int(number):
                    raise ValueError(f"round {row[place]} with {len(row)} of {len(names)} cells")
                for cell in filter(None, row):
                    float(cell)
                kept.append(dict(zip(names, row, strict=True)) | {"round": str(int(number))})
        except (OSError, IndexError, ValueError, csv.Error) as error:
            allowed = f"a table of numbers with commas, a row a round, as the run has written it ({error})"
            raise ConfigError("run_dir", str(self.path), allowed) from error
        return kept

    def append(self, row: dict[str, Any]) -> None:
        """Add a row and write the file.

        Raises:
            RunError: it cannot be written.
        """
        self.rows.append(row)
        # The file is small; writing it whole lets a column appear in any round, and a kill never leaves half of it.
        columns = list(dict.fromkeys(name for known in self.rows for name in known))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self.rows)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text.getvalue().encode())
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror or error})") from error


class MetricsCSV:
    """Writes every round's metrics to ``directory/metrics.csv``."""

    def __init__(self, directory: str | Path) -> None:
        self.table = RoundTable(Path(directory) / "metrics.csv")

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.table.begin(loop.round)

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        self.table.append(row)


class ConsensusCSV:
    """Writes ``directory/consensus.csv``, a row a round: the layer densities of the server's mask (``density/LAYER``),
    the mismatches of each layer alone (``mismatch_clients/LAYER``, ...) and how many weights 1, 2, ... of the round's
    clients held (``votes/1``, ...)."""

    def __init__(self, directory: str | Path) -> None:
        self.table = RoundTable(Path(directory) / "consensus.csv")

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.table.begin(loop.round)

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        of_layers = {"density": loop.server.layout.densities(loop.server.mask).tolist()} | loop.layer_mismatch
        layers = layer_labels(loop.server.layout)
        named = {f"{name}/{layer}": v for name, of in of_layers.items() for layer, v in zip(layers, of, strict=True)}
        votes = {f"votes/{held}": count for held, count in enumerate(loop.votes) if held}
        self.table.append({"round": loop.round} | named | votes)


class History:
    """Keeps what ``MetricsCSV`` writes, for a notebook that draws it: ``history["val_acc"]``.

    Attributes:
        rows: a dictionary a round. A resumed run adds to those that this object has seen.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.rows = [row for row in self.rows if row["round"] <= loop.round]

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        self.rows.append(row)

    def __getitem__(self, name: str) -> list[float]:
        """The values of a metric, one a round; NaN in rounds that have none.

        Raises:
            KeyError: no round has it.
        """
        if not any(name in row for row in self.rows):
            raise KeyError(name)
        return [row.get(name, math.nan) for row in self.rows]
