"""metrics.csv: every round's metrics."""

from pathlib import Path

from lightning.fabric.utilities import rank_zero_only

from flash_pl.callbacks.round_table import RoundTable
from flash_pl.loops import FederatedLoop


class MetricsCSV:
    """Writes every round's metrics to ``directory/metrics.csv``."""

    def __init__(self, directory: str | Path) -> None:
        self.table = RoundTable(Path(directory) / "metrics.csv")

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.table.begin(loop.round)

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        self.table.append(row)
