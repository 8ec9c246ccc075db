"""A CSV file with a row a round."""

import csv
import os
from pathlib import Path
from typing import Any

from flash_pl.errors import RunError


class RoundTable:
    """The rows of a CSV file by round, on disk after each :meth:`append`; what a row lacks is an empty cell.

    Args:
        path: of the file; its folder must exist by the first row.

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
        temporary = self.path.with_suffix(".tmp")
        try:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self.rows)
                file.flush()
                os.fsync(file.fileno())  # or a power cut may leave the new name on an empty file
            os.replace(temporary, self.path)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror or error})") from error
