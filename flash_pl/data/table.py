"""CSVTable: rows of a CSV file as samples."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import Unpack

from flash_pl.checks import check_numbers
from flash_pl.data.labels import LabelBins, Numbering
from flash_pl.data.partition import hold_out
from flash_pl.data.samples import Samples
from flash_pl.data.tensors import FederatedDataModule, FederatedKeywords
from flash_pl.errors import ConfigError, DataNotFoundError, as_yaml
from flash_pl.seeding import generator

FLOAT32_MAX = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Table:
    """The cells of a CSV file.

    Attributes:
        path: of the file.
        columns: the cells of each column by its name.
        lines: the line of the file in which each row ends, counted from 1.
    """

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]


class CSVTable(FederatedDataModule):
    """The rows of a CSV file: numbers in, a class or a number out. The first line names the columns.

    Inputs are all columns but ``target``, ``owner`` and ``exclude``; each is scaled to mean 0 and standard deviation 1
    of the training rows. A target column of whole numbers or words has classes, numbered in their order; numbers with a
    point or an exponent are targets of a regression, float32.

    Args:
        file: path of the CSV file.
        target: column with the label.
        test_file: CSV file with the test rows; None holds out ``test_share`` of the rows.
        test_share: in (0, 1); each class keeps its share.
        owner: column with the natural client of a row, such as a device; None for none.
        exclude: columns that are not used.
        **keywords: see ``FederatedDataModule``.

    Raises:
        DataNotFoundError: a file is missing.
        ConfigError: a column is missing or has cells that are no numbers; an empty file.

    >>> import tempfile
    >>> rows = "".join(f"{number},{number % 3},{'yes' if number % 2 else 'no'}\\n" for number in range(40))
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as table:
    ...     _ = table.write("height,floor,sold\\n" + rows)
    ...     table.flush()
    ...     data = CSVTable(table.name, target="sold", clients=4)
    ...     data.setup("fit")
    >>> data.classes, data.shape, data.client_sizes
    (2, (2,), [8, 8, 8, 8])
    """

    def __init__(
        self,
        file: str | Path,
        target: str,
        *,
        test_file: str | Path | None = None,
        test_share: float = 0.2,
        owner: str | None = None,
        exclude: Sequence[str] = (),
        **keywords: Unpack[FederatedKeywords],
    ) -> None:
        super().__init__(**keywords)
        check_numbers("(0, 1)", test_share=test_share)
        if isinstance(exclude, str):
            raise ConfigError("exclude", f"{as_yaml(exclude)} is not a list of columns", f"write [{exclude}]")
        self.files = [Path(path) for path in (file, test_file) if path is not None]
        self.target, self.owner, self.exclude, self.test_share = target, owner, tuple(exclude), test_share

    def load(self) -> tuple[Samples, Samples]:
        """Read the files, at the first call only."""
        return self._splits

    @property
    def classes(self) -> int:  # type: ignore[override]
        """Number of classes of the target."""
        labels = [split.labels for split in self._splits]
        if labels[0].is_floating_point():
            raise AttributeError("the target is a number")
        return 1 + max(int(part.max()) for part in labels)

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Number of input columns, ``(features,)``."""
        return tuple(self._splits[0].inputs.shape[1:])

    @cached_property
    def _splits(self) -> tuple[Samples, Samples]:
        tables = [read_table(path) for path in self.files]
        first = tables[0].columns
        names = [name for name in first if name not in (self.target, self.owner, *self.exclude)]
        if unknown := [name for name in self.exclude if name not in first]:
            raise ConfigError("exclude", f"{self.files[0]} has no column {as_yaml(unknown[0])}")
        if not names:
            raise ConfigError("exclude", "it leaves no column as input")
        for table in tables:
            for key, name in {"target": self.target, "owner": self.owner}.items():
                if name is not None and name not in table.columns:
                    hint = f"it has {', '.join(table.columns)}"
                    raise ConfigError(key, f"{table.path} has no column {as_yaml(name)}", hint)
            if missing := [name for name in names if name not in table.columns]:
                raise ConfigError("test_file", f"{table.path} has no column {as_yaml(missing[0])}")
        inputs = [torch.stack([_numbers(table, name) for name in names], dim=1) for table in tables]
        targets = _targets(tables, self.target)
        owners = _numbered([table.columns[self.owner] for table in tables]) if self.owner else [None] * len(tables)
        splits = [Samples(*parts) for parts in zip(inputs, targets, owners, strict=True)]
        train, test = splits if len(splits) == 2 else self._hold_out(splits[0])
        return self._scaled(train, test)

    def _scaled(self, train: Samples, test: Samples) -> tuple[Samples, Samples]:
        """Scale the inputs in float64: float32 could not tell two moments of a day in seconds since 1970 apart."""
        std, mean = torch.std_mean(train.inputs, 0, correction=0)
        std = std.where(std > 0, 1.0)
        return tuple(  # type: ignore[return-value]
            Samples(((split.inputs - mean) / std).float(), split.labels, split.owners) for split in (train, test)
        )

    def _hold_out(self, rows: Samples) -> tuple[Samples, Samples]:
        classes = LabelBins(rows.labels)(rows.labels)
        parts = [torch.nonzero(classes == number).flatten() for number in classes.unique()]
        draws = generator(self.seed, "test_share")
        train, test = hold_out(parts, self.test_share, draws)
        if not any(map(len, test)):  # each class has too few rows
            train, test = hold_out([torch.arange(len(rows))], self.test_share, draws)
        splits = (torch.cat(part).sort().values for part in (train, test))
        return tuple(  # type: ignore[return-value]
            Samples(rows.inputs[index], rows.labels[index], None if rows.owners is None else rows.owners[index])
            for index in splits
        )


def read_table(path: Path) -> Table:
    """Return the cells of a CSV file, without surrounding spaces. Empty lines are left out.

    Raises:
        DataNotFoundError: there is no such file.
        ConfigError: it has no rows, a row with another number of cells than the first line, or a name twice.
    """
    try:
        text = path.read_bytes().decode().removeprefix("\ufeff")
    except OSError as error:
        raise DataNotFoundError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        problem = f"{path} is not in UTF-8: byte {error.start} (0x{error.object[error.start]:02x}) has no meaning there"
        raise ConfigError("file", problem) from error
    reader = csv.reader(io.StringIO(text, newline=""))
    rows, lines = [], []
    try:
        for row in reader:
            if row:
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ConfigError("file", f"line {reader.line_num} of {path} is not of a CSV file ({error})") from error
    if len(rows) < 2:
        raise ConfigError("file", f"{path} has no rows under a line with the names of the columns")
    names = rows.pop(0)
    lines.pop(0)
    if len(set(names)) < len(names):
        raise ConfigError("file", f"{path} names a column twice")
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(names):
            raise ConfigError("file", f"line {line} of {path} has {len(row)} cells for {len(names)} columns")
    return Table(path, dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), lines)


def _number(cell: str) -> int | float | str:
    """A cell as the number that it is; other cells, such as a postal code 01234, stay words."""
    try:
        if re.fullmatch("-?(0|[1-9][0-9]*)", cell):
            return int(cell)
        return float(cell) if re.search("[.eE]", cell) and "_" not in cell else cell
    except ValueError:  # Python reads no integer of more than 4300 digits
        return cell


def _numbers(table: Table, name: str) -> Tensor:
    """A column as float64."""
    numbers = []
    for line, cell in zip(table.lines, table.columns[name], strict=True):
        try:
            number = math.nan if "_" in cell else float(cell)  # Python reads 1_5 as 15
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            problem = f"{_cell(table, name, line, cell)}, which is no finite number"
            raise ConfigError("file", problem, "make it a number, or leave the column out with exclude")
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.float64)


def _cell(table: Table, name: str, line: int, cell: str) -> str:
    return f"column {as_yaml(name)} of {table.path} has {as_yaml(cell[:40])} in line {line}"


def _targets(tables: Sequence[Table], name: str) -> list[Tensor]:
    """Classes, numbered in their order over all files, or numbers in float32."""
    values = [[_number(cell) for cell in table.columns[name]] for table in tables]
    kinds = {type(value) for column in values for value in column}
    for table, column in zip(tables, values, strict=True):
        for line, value in zip(table.lines, column, strict=True):
            if value == "" or (isinstance(value, str) and float in kinds):
                problem = f"{_cell(table, name, line, value)}, an empty cell or a word among numbers"
                raise ConfigError("target", problem, "give every row a class or a number")
            if float in kinds and not (isinstance(value, int | float) and abs(value) <= FLOAT32_MAX):  # NaN, too
                problem = f"{_cell(table, name, line, str(value))}, which float32 cannot hold"
                raise ConfigError("target", problem)
    if float not in kinds:
        return _numbered(values)
    return [torch.tensor([float(value) for value in column]) for column in values]


def _numbered(columns: Sequence[Sequence[int | float | str]]) -> list[Tensor]:
    numbers = Numbering([value for column in columns for value in column])
    return [numbers(column) for column in columns]
