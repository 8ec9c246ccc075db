"""Shared by the accuracy studies: trainings on the command line, tables of results, statistics over seeds."""

import csv
import re
import statistics
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

RESULTS = Path(__file__).parent / "results"
FLASH_RUNS = RESULTS / "fashion_mnist.csv"  # one row per run of fashion_mnist.py and hetero.py
SEEDS = (1, 2, 3)
ROUNDS = 60
MISMATCH_ROUNDS = (1, 10, 30, 60)
TIERS = (0.5, 0.75, 1)  # densities of the tiers, as shares of the target density
DIVERGED = "diverged"  # stands for the accuracy of a run whose numbers grew without bound
Row = dict[str, Any]  # column -> value


@dataclass(frozen=True)
class Run:
    """One training on Fashion-MNIST.

    Args:
        config: a shipped configuration.
        compat: "official" for the choices of the authors' code, "ours" for the defaults of flash_pl.
        density: target density.
        seed: seed of the partition, the weights and the cohorts.
        name: name of the experiment if ``arguments`` make it different from the configuration.
        arguments: further arguments of ``flash-pl fit``.
    """

    config: str
    compat: str
    density: float
    seed: int
    name: str = ""
    arguments: tuple[str, ...] = ()

    @property
    def experiment(self) -> str:
        return self.name or self.config

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The first four columns of the digest."""
        return self.compat, self.experiment, f"{self.density}", f"{self.seed}"

    def directory(self, out: Path) -> Path:
        return out / f"{self.compat}-{self.experiment}-d{self.density}-s{self.seed}"

    def finished(self, out: Path) -> bool:
        return (self.directory(out) / "result.json").exists()

    def command(self, out: Path) -> list[str]:
        settings = {
            "data": "fashion_mnist",
            "density": self.density,
            "seed": self.seed,
            "rounds": ROUNDS,
            "run_dir": self.directory(out),
            "ckpt_path": "last",
            "trainer.eval_every": 10,
            "trainer.eval_last": 5,
            "trainer.threads": 1,
            "trainer.accelerator": "cpu",
        }
        if self.compat == "official":
            settings["compat"] = "official"
        overrides = [f"{key}={value}" for key, value in settings.items()]
        return [sys.executable, "-m", "flash_pl", "fit", self.config, *overrides, *self.arguments]


class Training(Protocol):
    """A command that writes a run directory below ``out``."""

    def directory(self, out: Path) -> Path: ...

    def finished(self, out: Path) -> bool: ...

    def command(self, out: Path) -> list[str]: ...


class MayDiverge(ABC):
    """A ``Training`` that is finished, too, if its numbers grew without bound."""

    @abstractmethod
    def directory(self, out: Path) -> Path: ...

    def diverged(self, out: Path) -> bool:
        log = out / f"{self.directory(out).name}.log"
        return log.exists() and has_diverged(log.read_text())

    def finished(self, out: Path) -> bool:
        return (self.directory(out) / "result.json").exists() or self.diverged(out)


T = TypeVar("T", bound=Training)


def run_all(
    runs: Iterable[T],
    out: Path,
    workers: int,
    until: datetime | None = None,
    on_end: Callable[[T], None] = lambda run: None,
) -> None:
    """Train the runs that are not finished, ``workers`` at a time.

    Args:
        runs: in the order in which they start.
        out: folder of the run directories.
        workers: number of trainings at the same time.
        until: no run starts after this moment.
        on_end: called after every training.
    """

    def train(run: T) -> None:
        if until is not None and datetime.now() > until:
            return
        log = out / f"{run.directory(out).name}.log"
        with open(log, "w") as file:
            code = subprocess.run(run.command(out), stdout=file, stderr=subprocess.STDOUT).returncode
        print(run.directory(out).name, "done" if code == 0 else f"failed with exit code {code}, see {log}", flush=True)
        on_end(run)

    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(train, [run for run in runs if not run.finished(out)]))


def write_flash_runs(out: Path) -> None:
    """Write one row per finished run in ``out`` to ``FLASH_RUNS``; the rows of other runs stay."""
    digest = {key_of(row): row for row in read_table(FLASH_RUNS)}
    for result in out.glob("*/result.json"):
        compat, experiment, density, seed = re.fullmatch(
            r"(official|ours)-(\w+)-d([\d.]+)-s(\d+)", result.parent.name
        ).groups()
        metrics = read_metrics(result.parent)
        row = {"compat": compat, "experiment": experiment, "density": density, "seed": seed}
        row |= {name: last_five(metrics, column) for name, column in accuracy_columns(float(density)).items()}
        row |= {
            f"mismatch_{round}": f"{float(metrics[round - 1]['mismatch_clients']):.6f}" for round in MISMATCH_ROUNDS
        }
        digest[key_of(row)] = row
    write_table(FLASH_RUNS, [digest[key] for key in sorted(digest)])
    print(f"{FLASH_RUNS}: {len(digest)} runs")


def key_of(row: Row) -> tuple[str, str, str, str]:
    return row["compat"], row["experiment"], row["density"], row["seed"]


def accuracy_columns(density: float) -> dict[str, str]:
    """Column of metrics.csv by column of the digest."""
    tiers = {f"accuracy_tier_{tier:g}": f"val_acc_d{tier * density:g}" for tier in TIERS}
    return {"accuracy": "val_acc", "accuracy_union": "val_acc_union"} | tiers


def read_metrics(run: Path) -> list[Row]:
    """The rows of metrics.csv of a run directory."""
    return read_table(run / "metrics.csv")


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file; no rows if the file does not exist."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: Sequence[Row]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def last_five(metrics: Sequence[Row], column: str, digits: int = 8) -> str:
    """Mean of a metric over the last five rounds, in %; empty if the run does not have the metric."""
    if column not in metrics[-1]:
        return ""
    return f"{100 * statistics.fmean(float(row[column]) for row in metrics[-5:]):.{digits}f}"


def has_diverged(output: str) -> bool:
    """Whether the last line that a failed run printed says that its numbers grew without bound."""
    last_line = output.strip().rpartition("\n")[2]
    signs = ("training diverged", "is not finite", "do not fit a sum of values within")
    return any(sign in last_line for sign in signs)


def without_diverged(runs: Sequence[Row]) -> list[Row]:
    return [run for run in runs if run["accuracy"] != DIVERGED]


def mean(runs: Sequence[Row], column: str) -> float:
    """Mean of a column over the rows that have a value there."""
    return statistics.fmean(float(run[column]) for run in runs if run[column])


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean and sample standard deviation, such as "84.0 ± 0.1"; "-" without values."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def accuracy(runs: Sequence[Row]) -> str:
    """Mean and deviation of the accuracies, and the number of diverged runs if there are any."""
    values = [float(run["accuracy"]) for run in without_diverged(runs)]
    return with_diverged(values, len(runs) - len(values))


def difference(runs: Sequence[Row], baseline: Sequence[Row]) -> str:
    """Mean and deviation of the points by which runs are above the baseline run of the same seed.

    The same seed means the same partition and cohorts. Pairs with a diverged run are counted, not averaged.
    """
    by_seed = {run["seed"]: run for run in baseline}
    pairs = [(run, by_seed[run["seed"]]) for run in runs if run["seed"] in by_seed]
    values = [float(a["accuracy"]) - float(b["accuracy"]) for a, b in pairs if len(without_diverged([a, b])) == 2]
    return with_diverged(values, len(pairs) - len(values))


def with_diverged(values: Sequence[float], diverged: int) -> str:
    parts = [mean_and_deviation(values)] if values or not diverged else []
    return ", ".join(parts + ([f"{diverged} diverged"] if diverged else []))
