"""Reads the files of a run directory, which somebody else may have sent: bounded in size, each fault one sentence."""

import csv
import json
import math
import os
import stat
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import yaml  # type: ignore[import-untyped]
from numpy.typing import NDArray

from flash_pl.errors import ConfigError, as_yaml, in_one_line
from flash_pl.yaml12 import load

Columns = Mapping[str, NDArray[np.float64]]

MIB = 2**20
LARGEST_TEXT = 4 * MIB  # bytes of config.yaml and result.json
LARGEST_TABLE = 64 * MIB  # bytes of metrics.csv and consensus.csv
LONGEST_LINE = MIB  # characters of a line of a table
MOST_COLUMNS = 10_000
MOST_CELLS = 10_000_000
DIVERGED = 1e100  # a metric beyond it, up or down, is as good as infinite


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; numbers that are too large for a float are infinite.

    Raises:
        ConfigError: the file cannot be read, is larger than 4 MiB, or holds something else.
    """
    with _opened(path, LARGEST_TEXT) as file:
        try:
            content = json.loads(_text(file, path), parse_int=_integer)
        except (ValueError, RecursionError) as error:
            raise ConfigError("run", f"{as_yaml(str(path))} is not readable JSON ({error})") from error
    return _mapping(path, content)


def _integer(digits: str) -> int | float:
    """Python refuses to read an integer of thousands of digits; every integer of 300 digits is also a float."""
    return int(digits) if len(digits) <= 300 else math.inf


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, references unresolved.

    Raises:
        ConfigError: the file cannot be read, is larger than 4 MiB, or holds something else.
    """
    with _opened(path, LARGEST_TEXT) as file:
        try:
            content = load(_text(file, path))
        except (ValueError, yaml.YAMLError) as error:
            reason = in_one_line(error)
            raise ConfigError("run", f"{as_yaml(str(path))} is not a readable YAML file ({reason})") from error
    return _mapping(path, content)


def _text(file: TextIO, path: Path) -> str:
    """The whole text; files of the system that have no size, and no end either, are cut off."""
    text = file.read(LARGEST_TEXT + 1)
    if len(text) > LARGEST_TEXT:
        raise _too_large(path, LARGEST_TEXT)
    return text


def _mapping(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError("run", f"{as_yaml(str(path))} is not a mapping of keys to values")
    return content


def read_table(path: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a CSV file of numbers with one row per round.

    A value is NaN for an empty cell, and inf for NaN, an infinite number or one beyond 1e100.

    Raises:
        ConfigError: the file cannot be read, is larger than 64 MiB, or is another table.
    """
    name, cells, rows = as_yaml(str(path)), array("d"), 0
    with _opened(path, LARGEST_TABLE) as file:
        try:
            lines = (row for row in csv.reader(_lines(file)) if row)
            names = next(lines, [])
            if len(names) > MOST_COLUMNS:
                raise ValueError(f"it has more than {MOST_COLUMNS} columns")
            for row in lines:
                rows += 1
                if len(row) != len(names):
                    raise ValueError(f"row {rows} has {len(row)} cells, the header {len(names)}")
                if len(cells) + len(row) > MOST_CELLS:
                    raise ValueError(f"it has more than {MOST_CELLS} cells")
                cells.extend(map(_parse_cell, row))
        except (ValueError, csv.Error) as error:
            raise ConfigError("run", f"{name} is not a readable table of numbers ({error})") from error
    if "round" not in names or not rows:
        raise ConfigError("run", f"{name} is not a table with a column round and one row per round")
    if twice := [column for column, count in Counter(names).items() if count > 1]:
        raise ConfigError("run", f"{name} has the column {as_yaml(twice[0][:80])} twice")
    columns = np.frombuffer(cells, np.float64).reshape(rows, len(names)).T.copy()
    return dict(zip(names, columns, strict=True))


def _lines(file: TextIO) -> Iterator[str]:
    size = 0
    while line := file.readline(LONGEST_LINE + 1):
        size += len(line)
        if len(line) > LONGEST_LINE or size > LARGEST_TABLE:
            raise ValueError(f"it has a line of more than {LONGEST_LINE} characters, or has no end")
        yield line


def _parse_cell(cell: str) -> float:
    """The number in a cell: NaN for an empty cell, inf for NaN, infinite and very large numbers."""
    if not cell:
        return math.nan
    if "_" in cell or not cell.isascii():  # Python would read 1_0 as 10
        raise ValueError(f"could not convert string to float: {cell[:80]!r}")
    value = float(cell)
    return value if abs(value) <= DIVERGED else math.inf


@contextmanager
def _opened(path: Path, largest: int) -> Iterator[TextIO]:
    """A regular file of at most ``largest`` bytes, as text. A named pipe does not block, and no device is opened."""
    name = as_yaml(str(path))
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError("run", f"{name} is not a file")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, newline="", encoding="utf-8-sig") as file:  # spreadsheets add a byte order mark
            if os.fstat(handle).st_size > largest:
                raise _too_large(path, largest)
            yield file
    except OSError as error:
        raise ConfigError("run", f"{name} cannot be read ({error.strerror or error})") from error


def _too_large(path: Path, largest: int) -> ConfigError:
    return ConfigError("run", f"{as_yaml(str(path))} is larger than {largest // MIB} MiB, which no run writes")
