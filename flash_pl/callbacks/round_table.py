"""A CSV file with a row a round."""

import csv
import io
from pathlib import Path
from typing import Any

from flash_pl.checkpoint import write_whole
from flash_pl.errors import RunError


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
        """Start afresh, or for a resumed run keep the rows up to ``round``."""
        self.rows = []
        if round and self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["round"]) <= round]

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
