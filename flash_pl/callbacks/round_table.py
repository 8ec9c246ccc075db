"""A CSV file with one row per round, to which rows are appended; a kill at any byte costs no row of a checkpoint."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flash_pl.atomic_write import write_atomically
from flash_pl.errors import ConfigError, RunError

END = "\r\n"  # of a line; a last line without it was cut off by a kill


class RoundTable:
    """A CSV file with one row per round, which readers see after each ``append``.

    A row is one line at the end of the file, so its work does not grow with the rounds. The file is written anew, in
    one step, by the first row of a run and by a row with a new column: as often as there are columns at most, whatever
    the number of rounds. In other rows the cells of a column are empty.

    A kill can leave the beginning of a line at the end of the file. Every line that ends with a line break is whole. A
    resumed run writes the rows up to its checkpoint anew, without such a rest. A machine that fails can lose rows after
    the last ``sync``; they are later than the last checkpoint if ``sync`` is called before each.

    Args:
        path: the file; its folder is created with the first row.

    >>> import tempfile
    >>> table = RoundTable(Path(tempfile.mkdtemp()) / "metrics.csv")
    >>> table.append({"round": 1, "density": 0.05})
    >>> table.append({"round": 2, "density": 0.05, "val_acc": 0.5})
    >>> print(table.path.read_text())
    round,density,val_acc
    1,0.05,
    2,0.05,0.5
    >>> table.rows()[1]["val_acc"]
    '0.5'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []
        self._last = 0  # round of the last row that is kept
        self._size = -1  # bytes of the file as this object left it, -1 before its first row

    def begin(self, round: int) -> None:
        """Start with an empty table, or keep the rows up to ``round`` of a resumed run. The next row changes the file.

        Raises:
            ConfigError: the file is not a table that a run wrote.
        """
        self._last, self._size = round, -1
        self._read()

    def rows(self) -> list[dict[str, str]]:
        """Read all rows that this run keeps, as text by column.

        Raises:
            ConfigError: see ``begin``.
        """
        columns, lines = self._read()
        return [dict(zip(columns, cells, strict=True)) for cells in lines]

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of the next round.

        Raises:
            RunError: the file cannot be written, for instance because the disk is full; it has all rows before this
                one.
        """
        try:
            if not (row.keys() <= set(self._columns) and self._append(_line(row.get(name) for name in self._columns))):
                self._rewrite(row)
        except ConfigError as error:  # somebody else has written the file while the run went on
            raise RunError(str(error)) from error
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        self._last = int(row["round"])

    def sync(self) -> None:
        """Wait until all rows are on the disk. That can take longer than a short round, so ``append`` does not wait.

        Raises:
            RunError: the disk cannot take them.
        """
        if self._size >= 0 and self.path.is_file():
            try:
                with open(self.path, "ab") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise RunError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def _append(self, line: bytes) -> bool:
        """Write a line to the end of the file, if this object wrote the file and nobody has changed its length since;
        return whether that is so."""
        if self._size < 0 or not self.path.is_file():
            return False
        with open(self.path, "ab", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != self._size:
                return False
            try:
                written = file.write(line)
                while written < len(line):  # a disk that is nearly full takes a part
                    written += file.write(line[written:])
            except OSError:
                with suppress(OSError):
                    os.truncate(self.path, self._size)
                raise
        self._size += len(line)
        return True

    def _rewrite(self, row: dict[str, Any]) -> None:
        """Write all rows that are kept and the new one, with the new one's columns too."""
        before, lines = self._read()
        columns = list(dict.fromkeys([*before, *row]))
        missing = [""] * (len(columns) - len(before))
        content = [_line(columns), *(_line([*cells, *missing]) for cells in lines)]
        content.append(_line(row.get(name) for name in columns))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, b"".join(content))
        self._columns, self._size = columns, sum(map(len, content))

    def _read(self) -> tuple[list[str], list[list[str]]]:
        """The columns of the file, and the cells of its rows up to the last round that is kept.

        If a spreadsheet saved the file, it may begin with a byte order mark, and a round may be written as ``1.0``.
        """
        if not self._last or not self.path.is_file():
            return [], []
        try:
            # A machine that fails may leave zeros for rows that were not on the disk yet.
            text = self.path.read_bytes().partition(b"\0")[0].decode("utf-8-sig")
            names, *lines = [cells for cells in csv.reader(io.StringIO(text, newline="")) if cells] or [[]]
            if "round" not in names:
                raise ValueError("there is no column round")
            if lines and not text.endswith(("\n", "\r")) and not _is_next(lines, names):
                lines.pop()  # the beginning of a line
            return names, list(_kept(lines, names, self._last))
        except (OSError, IndexError, ValueError, OverflowError, csv.Error) as error:
            problem = f"'{self.path}' is not a table as a run writes it ({error})"
            raise ConfigError("run_dir", problem, "it needs a row per round, with commas between numbers") from error


def _line(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator=END).writerow(cells)
    return text.getvalue().encode()


def _is_next(lines: Sequence[Sequence[str]], names: Sequence[str]) -> bool:
    """Whether the last line, which has no line break, is a whole row all the same, as some editors leave it.

    A kill may cut a line so that all cells are there. Its row is then later than every checkpoint, and is not kept.
    """
    *before, last = lines
    position = names.index("round")
    return len(last) == len(names) and (not before or float(last[position]) > float(before[-1][position]))


def _kept(lines: Iterable[Sequence[str]], names: Sequence[str], last: int) -> Iterable[list[str]]:
    """The cells of the rows up to round ``last``.

    Raises:
        ValueError: a row is not complete, or a cell is not a number.
    """
    position = names.index("round")
    for cells in lines:
        if (round := float(cells[position])) > last:  # trained again
            continue
        if len(cells) != len(names) or round != int(round):
            raise ValueError(f"round {cells[position]} has {len(cells)} of {len(names)} cells")
        for cell in filter(None, cells):
            float(cell)
        yield [*cells[:position], str(int(round)), *cells[position + 1 :]]
