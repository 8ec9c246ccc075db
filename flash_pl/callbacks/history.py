"""Every round's metrics in memory."""

import math
from typing import Any

from flash_pl.loops import FederatedLoop


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
