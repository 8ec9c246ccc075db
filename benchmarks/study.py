"""What the accuracy studies share: runs of the command line, started where no result is there yet, and figures."""

import csv
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEEDS = (1, 2, 3)
ROUNDS = 60
Row = dict[str, Any]  # a line of a file of results
DIVERGED = "diverged"  # the accuracy of a run whose numbers grew without bound


@dataclass(frozen=True)
class Run:
    """One training on Fashion-MNIST: a shipped config, "official" or "ours", a density, a seed, further arguments."""

    config: str
    compat: str
    density: float
    seed: int
    name: str = ""  # what to call it if further arguments make it another experiment than its config
    arguments: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What the run is called."""
        return self.name or self.config

    def directory(self, out: Path) -> Path:
        return out / f"{self.compat}-{self.label}-d{self.density}-s{self.seed}"

    def done(self, out: Path) -> bool:
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


def run_all(runs: Iterable[Run], out: Path, workers: int) -> None:
    """Run what has no result yet, ``workers`` at a time."""

    def one(job: Run) -> None:
        log = out / f"{job.directory(out).name}.log"
        with open(log, "w") as file:
            code = subprocess.run(job.command(out), stdout=file, stderr=subprocess.STDOUT).returncode
        print(job.directory(out).name, "done" if code == 0 else f"failed with exit code {code}, see {log}", flush=True)

    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, [job for job in runs if not job.done(out)]))


def rows(directory: Path) -> list[dict[str, str]]:
    """metrics.csv of a run."""
    with open(directory / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> list[Row]:
    """The lines of a file of results, none if there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, lines: Sequence[Row]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def last_five(directory: Path, column: str) -> float:
    """Mean of a metric over the last five rounds, in %."""
    return 100 * statistics.fmean(float(row[column]) for row in rows(directory)[-5:])


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def has_diverged(said: str) -> bool:
    """Whether the last line that a run printed says so."""
    end = said.strip().rpartition("\n")[2]
    return "is not finite" in end or "do not fit a sum of values within" in end


def mean(runs: Sequence[Row], name: str) -> float:
    """Of the lines that have a value."""
    return statistics.fmean(float(run[name]) for run in runs if run[name])


def whole(runs: Sequence[Row]) -> list[Row]:
    """Those that have not diverged."""
    return [run for run in runs if run["accuracy"] != DIVERGED]


def accuracy(runs: Sequence[Row]) -> str:
    """Mean and deviation of the runs that have not diverged, and how many have."""
    values = [float(run["accuracy"]) for run in whole(runs)]
    return with_lost(values, len(runs) - len(values))


def with_lost(values: Sequence[float], lost: int) -> str:
    """Mean and deviation of the values, and how many are ``lost``."""
    return ", ".join([spread(values)] * bool(values or not lost) + [f"{lost} diverged"] * bool(lost))


def difference(runs: Sequence[Row], baseline: Sequence[Row]) -> str:
    """Points above the baseline's run of the same seed, so of the same clients, mean and deviation, and of how many
    pairs one has diverged."""
    base = {run["seed"]: run for run in baseline}
    pairs = [(run, base[run["seed"]]) for run in runs if run["seed"] in base]
    kept = [float(run["accuracy"]) - float(other["accuracy"]) for run, other in pairs if len(whole([run, other])) == 2]
    return with_lost(kept, len(pairs) - len(kept))
