"""CSVTable: rows of a CSV file as samples."""

import csv
import math
import re
from collections.abc import Sequence
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

Columns = dict[str, list[str]]  # the cells of each column, by its name in the first line


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
        tables = [read_columns(path) for path in self.files]
        names = [name for name in tables[0] if name not in (self.target, self.owner, *self.exclude)]
        if unknown := [name for name in self.exclude if name not in tables[0]]:
            raise ConfigError("exclude", f"{self.files[0]} has no column {as_yaml(unknown[0])}")
        if not names:
            raise ConfigError("exclude", "it leaves no column as input")
        for path, table in zip(self.files, tables, strict=True):
            for key, name in {"target": self.target, "owner": self.owner}.items():
                if name is not None and name not in table:
                    raise ConfigError(key, f"{path} has no column {as_yaml(name)}", f"it has {', '.join(table)}")
            if missing := [name for name in names if name not in table]:
                raise ConfigError("test_file", f"{path} has no column {as_yaml(missing[0])}")
        inputs = [
            torch.stack([_numbers(table[name], name, path) for name in names], dim=1)
            for table, path in zip(tables, self.files, strict=True)
        ]
        targets = _targets([table[self.target] for table in tables], self.target)
        owners = _numbered([table[self.owner] for table in tables]) if self.owner else [None] * len(tables)
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


def read_columns(path: Path) -> Columns:
    """Return the cells of each column of a CSV file, without surrounding spaces.

    Raises:
        DataNotFoundError: there is no such file.
        ConfigError: it has no rows, a row with another number of cells than the first line, or a name twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file) if line]
    except OSError as error:
        raise DataNotFoundError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError("file", f"{path} is not a CSV file in UTF-8 ({error})") from error
    if len(lines) < 2:
        raise ConfigError("file", f"{path} has no rows under a line with the names of the columns")
    names, *rows = lines
    if len(set(names)) < len(names):
        raise ConfigError("file", f"{path} names a column twice")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise ConfigError("file", f"row {number} of {path} has {len(row)} cells for {len(names)} columns")
    return {name: list(cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True)}


def _number(cell: str) -> int | float | str:
    """A cell as the number that it is; other cells, such as a postal code 01234, stay words."""
    if re.fullmatch("-?(0|[1-9][0-9]*)", cell):
        return int(cell)
    try:
        return float(cell) if re.search("[.eE]", cell) and "_" not in cell else cell
    except ValueError:
        return cell


def _numbers(cells: Sequence[str], name: str, path: Path) -> Tensor:
    """A column as float64."""
    numbers = []
    for row, cell in enumerate(cells, start=2):
        try:
            number = math.nan if "_" in cell else float(cell)  # Python reads 1_5 as 15
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            problem = f"column {as_yaml(name)} of {path} has {as_yaml(cell)} in row {row}, which is no finite number"
            raise ConfigError("file", problem, "make it a number, or leave the column out with exclude")
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.float64)


def _targets(columns: Sequence[Sequence[str]], name: str) -> list[Tensor]:
    """Classes, numbered in their order over all files, or numbers in float32."""
    values = [[_number(cell) for cell in column] for column in columns]
    kinds = {type(value) for column in values for value in column}
    if any(value == "" for column in values for value in column) or kinds >= {float, str}:
        problem = f"column {as_yaml(name)} has empty cells, or words among its numbers"
        raise ConfigError("target", problem, "give every row a class or a number")
    if float not in kinds:
        return _numbered(values)
    targets = [torch.tensor([float(value) for value in column]) for column in values]
    if not all(bool(column.isfinite().all()) for column in targets):
        raise ConfigError("target", f"column {as_yaml(name)} has a number that float32 cannot hold")
    return targets


def _numbered(columns: Sequence[Sequence[int | float | str]]) -> list[Tensor]:
    numbers = Numbering([value for column in columns for value in column])
    return [numbers(column) for column in columns]
