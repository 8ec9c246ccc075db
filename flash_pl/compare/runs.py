"""A finished run, as its directory has it."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from flash_pl.config import label, read_config, resolve
from flash_pl.errors import ConfigError

Columns = Mapping[str, NDArray[np.float64]]


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_component(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class_path"), str)


NAMES = {"data": "data", "model": "model", "scheduler": "scheduler"}  # with the sections that have them
# What a resolved config has, as far as it is read here.
NEEDED = {
    "density": lambda value: _is_number(value) and value > 0,
    **dict.fromkeys(("seed", "rounds", "cohort"), _is_number),
    **dict.fromkeys(("data", "model", "scheduler"), _is_component),
    "trainer": lambda value: isinstance(value, dict),
}


@dataclass(frozen=True, eq=False)
class Run:
    """What a run was (``config``), did (``metrics``: a value a round, NaN in an empty cell, inf for what is not finite)
    and found (``result``).

    ``consensus`` has the columns of consensus.csv, none where a run has written no such file.
    """

    path: Path
    config: Mapping[str, Any]
    metrics: Columns
    result: Mapping[str, Any]
    consensus: Columns

    @classmethod
    def read(cls, path: Path) -> "Run":
        """The run in a directory.

        Raises:
            ConfigError: it is not finished, or a file in it is missing or damaged.
        """
        if not (path / "result.json").is_file():
            raise ConfigError("run", str(path), "a finished run, with a result.json")
        if not (path / "config.yaml").is_file():
            raise ConfigError("run", str(path), "a run directory with a config.yaml")
        file = str(path / "config.yaml")
        config = resolve(read_config(file), file)
        for key, complete in NEEDED.items():
            if not complete(config.get(key)):
                raise ConfigError("run", file, f"a run's config; {key} is missing or incomplete")
        consensus = path / "consensus.csv"
        return cls(
            path,
            config,
            _table(path / "metrics.csv"),
            _mapping(path / "result.json"),
            _table(consensus) if consensus.is_file() else {},
        )

    @cached_property
    def names(self) -> dict[str, str]:
        """What data set, model and method are called."""
        config = self.config
        return {name: str(label(config, section)) for name, section in NAMES.items()}

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def monitor(self) -> str:
        """The metric that is compared."""
        return str(self.config["trainer"].get("monitor", "val_acc"))

    @property
    def highest(self) -> bool:
        """Whether the highest value of the monitored metric is the best."""
        return bool(self.config["trainer"].get("monitor_mode", "max") == "max")

    @property
    def dense_bytes(self) -> float | None:
        """Of the dense model, where the result has them."""
        cost = self.result.get("cost")
        found = cost.get("bytes_dense") if isinstance(cost, dict) else None
        return float(found) if _is_number(found) and found > 0 else None

    @property
    def density(self) -> float:
        """That was asked for; 1 if the method keeps every weight, whatever was asked."""
        found = self.result.get("density")
        return 1.0 if found == 1 else float(self.config["density"])

    def last(self, column: str) -> float | None:
        """The last value in a column of metrics.csv, None if there is none."""
        found = self._values(column)
        return float(found[-1]) if len(found) else None

    def total(self, column: str) -> float | None:
        """The sum of a column, None if it is nowhere filled."""
        found = self._values(column)
        return float(found.sum()) if len(found) else None

    @cached_property
    def whole(self) -> bool:
        """Whether metrics.csv has every round: one that goes on in another directory has its own rounds alone."""
        return bool(self.metrics["round"][-1] == len(self.metrics["round"]))

    def spent(self, column: str) -> float | None:
        """What the rounds in metrics.csv have cost, stage 1 included where they are the whole run."""
        return self.last(f"{column}_total") if self.whole else self.total(column)

    def mean_of_last(self, column: str, rounds: int) -> float | None:
        """The mean over the last ``rounds`` rounds in which a column is filled, or over fewer if there are no more.

        It is inf if the run has diverged there.
        """
        found = self._values(column)[-rounds:]
        return float(found.mean()) if len(found) else None

    def last_filled(self, column: str, rounds: int) -> list[int]:
        """Those rounds, counted from the last one of the run: 0, -1, ..."""
        every = self.metrics["round"]
        filled = ~np.isnan(self.metrics.get(column, np.full(len(every), np.nan)))
        return (every[filled] - every[-1]).astype(int).tolist()[-rounds:]

    def _values(self, column: str) -> NDArray[np.float64]:
        values = self.metrics.get(column, np.empty(0))
        return values[~np.isnan(values)]


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("run", str(path), f"a readable JSON file ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError("run", str(path), "a JSON file with a mapping")
    return content


def _number(cell: str) -> float:
    """NaN is an empty cell's; a number that is not finite, of a run that diverged, is inf."""
    value = float(cell) if cell else np.nan
    return value if not cell or np.isfinite(value) else np.inf


def _table(path: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a CSV file of numbers with a row a round."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # a spreadsheet marks the byte order
            names, *rows = [row for row in csv.reader(file) if row]
        cells = np.array([[_number(cell) for cell in row] for row in rows], dtype=np.float64)
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError("run", str(path), f"a readable table of numbers ({error})") from error
    if "round" not in names or not rows or cells.shape[1] != len(names):
        raise ConfigError("run", str(path), "a table with a column round and a row a round")
    if not (np.diff(cells[:, names.index("round")]) > 0).all():
        raise ConfigError("run", str(path), "a table whose rounds ascend")
    return dict(zip(names, cells.T, strict=True))


def read_runs(paths: Iterable[str | Path]) -> tuple[list[Run], list[ConfigError]]:
    """The finished runs at ``paths`` or, to any depth, below them, each once; and why others are left out."""
    runs, errors, seen = [], [], set[Path]()
    for path in map(Path, paths):
        found = list(_below(path))
        if not found:
            errors.append(ConfigError("run", str(path), "a run directory or a folder with some"))
        for directory in found:
            if directory.resolve() in seen:
                continue
            seen.add(directory.resolve())
            try:
                runs.append(Run.read(directory))
            except ConfigError as error:
                errors.append(error)
    return runs, errors


def _below(path: Path) -> Iterator[Path]:
    """Run directories in alphabetical order. Links are followed: a folder of links to runs is a selection of them."""
    entered = set()
    for here, folders, files in os.walk(path, followlinks=True):
        if _is_run(folders, files):
            yield Path(here)
            folders.clear()
        real = os.path.realpath(here)
        if real in entered:  # by a link to a folder around it
            folders.clear()
        entered.add(real)
        folders.sort()


def _is_run(folders: list[str], files: list[str]) -> bool:
    return not {"metrics.csv", "result.json"}.isdisjoint(files) or ("config.yaml" in files and "checkpoints" in folders)
