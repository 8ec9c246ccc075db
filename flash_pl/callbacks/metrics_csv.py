"""metrics.csv: one row a round."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.fabric.utilities import rank_zero_only

from flash_pl.errors import RunError
from flash_pl.loops import FederatedLoop


class MetricsCSV:
    """Writes every round's metrics to ``directory/metrics.csv``; a metric that a round lacks is an empty cell.

    A resumed run keeps the rows before the round from which it goes on.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / "metrics.csv"

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.rows: list[dict[str, Any]] = []
        if loop.round and self.path.is_file():
            with open(self.path, newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["round"]) <= loop.round]

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        self.rows.append(row)
        # The file is small; writing it whole lets a column appear in any round, and a kill never leaves half of it.
        columns = list(dict.fromkeys(name for known in self.rows for name in known))
        temporary = self.path.with_suffix(".tmp")
        try:
            with open(temporary, "w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self.rows)
            os.replace(temporary, self.path)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror or error})") from error
