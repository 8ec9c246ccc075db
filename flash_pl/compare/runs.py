"""Reads finished runs from their directories."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flash_pl.compare.files import Columns, read_json, read_table, read_yaml
from flash_pl.compare.schema import SECTIONS, check_agreement, check_config, check_result, check_table
from flash_pl.config import label, resolve_plain
from flash_pl.errors import ConfigError, as_yaml

# Top-level keys of config.yaml that were renamed: old name, new name.
RENAMED = {"method": "scheduler", "average": "round_average", "cost": "wire"}
MOST_FOLDERS = 10_000  # in which runs are looked for


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Args:
        path: its directory.
        config: the resolved config of config.yaml.
        metrics: the columns of metrics.csv, with one value per round. A value is NaN for an empty cell, and inf for a
            NaN or an infinite number, which mean that the run has diverged.
        result: the content of result.json.
        consensus: the columns of consensus.csv, empty without this file.

    >>> metrics = {"round": np.array([1.0, 2.0, 3.0]), "val_acc": np.array([0.2, np.nan, 0.6])}
    >>> run = Run(Path("runs/a"), config={"seed": 7}, metrics=metrics, result={}, consensus={})
    >>> run.seed, run.last("val_acc"), run.mean_of_last("val_acc", rounds=2)
    (7, 0.6, 0.4)
    """

    path: Path
    config: Mapping[str, Any]
    metrics: Columns
    result: Mapping[str, Any]
    consensus: Columns

    @classmethod
    def read(cls, path: Path) -> "Run":
        """Read the run in the directory ``path``.

        Raises:
            ConfigError: the run is not finished, an older version wrote it, or a file is missing or damaged.
        """
        for name, state in {"result.json": "not finished", "config.yaml": "incomplete"}.items():
            if not os.path.lexists(path / name):
                raise ConfigError("run", f"{as_yaml(str(path))} is {state}: it has no {name}")
        written, result = read_yaml(path / "config.yaml"), read_json(path / "result.json")
        _check_version(path, written, result)
        config = resolve_plain(written, str(path / "config.yaml"))
        check_config(path / "config.yaml", config)
        check_result(path / "result.json", result)
        metrics = _read_checked(path / "metrics.csv")
        check_agreement(path, config, result, metrics)
        consensus = path / "consensus.csv"
        return cls(path, config, metrics, result, _read_checked(consensus) if os.path.lexists(consensus) else {})

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of the data set, the model and the scheduler, by ``data``, ``model`` and ``scheduler``."""
        return {section: str(label(self.config, section)) for section in SECTIONS}

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config["seed"])

    @property
    def monitor(self) -> str:
        """The metric by which runs are compared."""
        return str(self.config["trainer"].get("monitor", "val_acc"))

    @property
    def higher_is_better(self) -> bool:
        """Whether a high value of the ``monitor`` metric is good."""
        return bool(self.config["trainer"].get("monitor_mode", "max") == "max")

    @property
    def density(self) -> float:
        """The target density; 1 if every weight stayed active, as in dense training, which has no target."""
        return 1.0 if self.result.get("density") == 1 else float(self.config["density"])

    @property
    def dense_bytes(self) -> float | None:
        """The bytes of the dense model on the wire, None if result.json does not have them."""
        return float(size) if (size := self.result.get("cost", {}).get("bytes_dense")) else None

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the packages that trained the run, empty if result.json does not have them."""
        return dict(self.result.get("versions", {}))

    def last(self, column: str) -> float | None:
        """Return the last value in a column of metrics.csv, None if there is none."""
        values = self.values(column)
        return float(values[-1]) if len(values) else None

    def total(self, column: str) -> float | None:
        """Return the sum over a column of metrics.csv, None if it has no values."""
        values = self.values(column)
        return float(values.sum()) if len(values) else None

    def mean_of_last(self, column: str, rounds: int) -> float | None:
        """Return the mean over the last ``rounds`` rounds that have a value in ``column``, None if there is none.

        Where fewer rounds have a value, the mean is over these. It is inf if the run has diverged in one of them.
        """
        values = self.values(column)[-rounds:]
        return float(values.mean()) if len(values) else None

    def rounds_of_last(self, column: str, rounds: int) -> list[int]:
        """Return the rounds of ``mean_of_last``, counted back from the last round of the run: 0, -1, ..."""
        numbers = self.metrics["round"]
        filled = ~np.isnan(self.metrics.get(column, np.full(len(numbers), np.nan)))
        return (numbers[filled] - numbers[-1]).astype(int).tolist()[-rounds:]

    def row_of_target(self, target: float) -> int | None:
        """Return the row of the first round in which the monitored metric reaches ``target``, None if none does.

        The metric is taken as it was measured, without smoothing and without interpolation between evaluations. It is
        compared in single precision, in which an accuracy of 7 of 10 is 0.7. It is None for a run without its first
        rounds, which may have reached it before.

        >>> metrics = {"round": np.array([1.0, 2.0, 3.0]), "val_acc": np.array([0.5, np.nan, 0.7])}
        >>> run = Run(Path("a"), {"trainer": {"monitor_mode": "max"}}, metrics, result={}, consensus={})
        >>> run.row_of_target(0.7), run.row_of_target(0.8)
        (2, None)
        """
        values = self.metrics.get(self.monitor)
        if values is None or not self.has_all_rounds:
            return None
        with np.errstate(over="ignore"):
            difference = values.astype(np.float32) - np.float32(target)
        reached = difference >= 0 if self.higher_is_better else difference <= 0
        rows = np.flatnonzero(reached & np.isfinite(values))
        return int(rows[0]) if len(rows) else None

    @cached_property
    def has_all_rounds(self) -> bool:
        """Whether metrics.csv starts at round 1; a run continued in another directory has later rounds only."""
        return bool(self.metrics["round"][-1] == len(self.metrics["round"]))

    def cost(self, column: str) -> float | None:
        """Return the sum over a column of bytes or FLOPs, with stage 1; without it if metrics.csv lacks rounds."""
        return self.last(f"{column}_total") if self.has_all_rounds else self.total(column)

    def values(self, column: str) -> NDArray[np.float64]:
        """Return the values of a column of metrics.csv in the rounds that have one."""
        values = self.metrics.get(column, np.empty(0))
        return values[~np.isnan(values)]


def _check_version(path: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Raises a ConfigError for the directory of an older version, whose keys had other names."""
    renamed = [("config.yaml", old, new) for old, new in RENAMED.items() if old in config]
    if "method" in result and "scheduler" not in result:
        renamed.append(("result.json", "method", "scheduler"))
    if renamed:
        keys = ", ".join(f"{old} in {file} is now called {new}" for file, old, new in renamed)
        raise ConfigError(
            "run",
            f"{as_yaml(str(path))} was written by an older version of flash_pl ({keys})",
            "train it again, or compare it with the version that wrote it",
        )


def _read_checked(path: Path) -> Columns:
    columns = read_table(path)
    check_table(path, columns)
    return columns


def read_runs(paths: Iterable[str | Path]) -> tuple[list[Run], list[ConfigError]]:
    """Return the finished runs in ``paths`` and in all folders below them, and an error for each other run.

    A run that is found twice is read once.

    >>> runs, errors = read_runs(["no_such_folder"])
    >>> print(runs, *errors)
    [] run: 'no_such_folder' is neither a run directory nor a folder with runs
    """
    runs, errors, seen = list[Run](), list[ConfigError](), set[Path]()
    for path in map(Path, paths):
        directories, known = list[Path](), len(errors)
        try:
            for directory in _run_directories(path):
                directories.append(directory)  # those that are found before an error, too
        except ConfigError as error:
            errors.append(error)
        if not directories and len(errors) == known:
            errors.append(ConfigError("run", f"{as_yaml(str(path))} is neither a run directory nor a folder with runs"))
        for directory in directories:
            if directory.resolve() in seen:
                continue
            seen.add(directory.resolve())
            try:
                runs.append(Run.read(directory))
            except ConfigError as error:
                errors.append(error)
    return runs, errors


def _run_directories(path: Path) -> Iterator[Path]:
    """Yield the run directories at and below ``path`` in alphabetical order.

    Symbolic links are followed, so that a folder of links to runs is a selection of these runs.

    Raises:
        ConfigError: more than 10,000 folders, perhaps behind a link to the root of a disk.
    """
    entered = set[str]()
    for directory, folders, files in os.walk(path, followlinks=True):
        if _is_run(folders, files):
            yield Path(directory)
            folders.clear()
        real = os.path.realpath(directory)
        if real in entered:  # a link to a folder above it
            folders.clear()
        entered.add(real)
        if len(entered) > MOST_FOLDERS:
            raise ConfigError(
                "run", f"{as_yaml(str(path))} has more than {MOST_FOLDERS} folders", "give those of the runs"
            )
        folders.sort()


def _is_run(folders: list[str], files: list[str]) -> bool:
    return not {"metrics.csv", "result.json"}.isdisjoint(files) or ("config.yaml" in files and "checkpoints" in folders)
