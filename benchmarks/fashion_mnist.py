"""The five methods on Fashion-MNIST: runs every cell of the table in docs/results.md, then prints it.

    python benchmarks/fashion_mnist.py run      # hours on two cores; finished runs are skipped
    python benchmarks/fashion_mnist.py table    # Markdown
    python benchmarks/fashion_mnist.py plot     # docs/accuracy.png

A cell is the mean accuracy of the last five rounds, then mean and standard deviation over seeds.
"""

import argparse
import csv
import itertools
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

METHODS = ("dense", "nst", "pdst", "spdst", "jmwst")
DENSITIES = (0.05, 0.1)
SEEDS = (1, 2, 3)
COMPAT = ("official", "ours")
ROUNDS = 60


@dataclass(frozen=True)
class Run:
    """One cell's run with one seed."""

    compat: str
    method: str
    density: float
    seed: int

    def directory(self, out: Path) -> Path:
        return out / f"{self.compat}-{self.method}-d{self.density}-s{self.seed}"

    def done(self, out: Path) -> bool:
        return (self.directory(out) / "result.json").exists()

    def command(self, out: Path) -> list[str]:
        settings = {
            "data": "fashion_mnist",
            "density": self.density,
            "seed": self.seed,
            "rounds": ROUNDS,
            "run_dir": self.directory(out),
            "trainer.eval_every": 10,
            "trainer.eval_last": 5,
            "trainer.threads": 1,
            "trainer.accelerator": "cpu",
        }
        if self.compat == "official":
            settings["compat"] = "official"
        return [sys.executable, "-m", "flash_pl", "fit", self.method, *(f"{k}={v}" for k, v in settings.items())]


def all_runs() -> list[Run]:
    """Every run, all of one seed before the next, so that a stopped study is a whole one with fewer seeds."""
    cells = [(m, d) for m, d in itertools.product(METHODS, DENSITIES) if m != "dense" or d == DENSITIES[0]]
    return [Run(compat, method, density, seed) for seed in SEEDS for compat in COMPAT for method, density in cells]


def run(out: Path, workers: int) -> None:
    """Run what has no result yet, ``workers`` at a time."""

    def one(job: Run) -> None:
        log = out / f"{job.directory(out).name}.log"
        with open(log, "w") as file:
            code = subprocess.run(job.command(out), stdout=file, stderr=subprocess.STDOUT).returncode
        print(job, "done" if code == 0 else f"failed with exit code {code}, see {log}", flush=True)

    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, [job for job in all_runs() if not job.done(out)]))


def rows(directory: Path) -> list[dict[str, str]]:
    with open(directory / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def last_five(directory: Path, column: str) -> float:
    """Mean of a metric over the last five rounds, in %."""
    return 100 * statistics.fmean(float(row[column]) for row in rows(directory)[-5:])


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def table(out: Path) -> str:
    """The Markdown table of all finished runs; mismatch is our defaults' pairwise one of the clients."""
    lines = [
        "| method | d | official | official, union | ours | ours, union | mismatch, round 1 / 10 / 30 / 60 | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    runs = [job for job in all_runs() if job.done(out)]
    for method, density in dict.fromkeys((job.method, job.density) for job in all_runs()):
        cell = {
            compat: [j.directory(out) for j in runs if (j.compat, j.method, j.density) == (compat, method, density)]
            for compat in COMPAT
        }
        accuracy = [
            spread([last_five(directory, column) for directory in cell[compat]])
            for compat in COMPAT
            for column in ("val_acc", "val_acc_union")
        ]
        drift = " / ".join(
            f"{statistics.fmean(float(rows(d)[r - 1]['mismatch_clients']) for d in cell['ours']):.3f}"
            for r in (1, 10, 30, 60)
            if cell["ours"]
        )
        name = (method, "1") if method == "dense" else (method.upper(), f"{density}")
        counts = f"{len(cell['official'])}, {len(cell['ours'])}"
        lines.append(f"| {' | '.join((*name, *accuracy, drift, counts))} |")
    return "\n".join(lines)


def plot(out: Path, to: Path) -> None:
    """Accuracy per round of the five methods at the first density, our defaults, mean over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for method in METHODS:
        known: dict[int, list[float]] = {}
        for seed in SEEDS:
            job = Run("ours", method, DENSITIES[0], seed)
            for row in rows(job.directory(out)) if job.done(out) else []:
                if row["val_acc"]:
                    known.setdefault(int(row["round"]), []).append(100 * float(row["val_acc"]))
        label = "dense (d = 1)" if method == "dense" else f"{method.upper()} (d = {DENSITIES[0]})"
        axes.plot(list(known), [statistics.fmean(values) for values in known.values()], label=label, marker=".")
    axes.set(xlabel="round", ylabel="test accuracy, %", title="Fashion-MNIST, MNISTNet, 10 of 100 clients a round")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(to, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "table", "plot"])
    parser.add_argument("--out", type=Path, default=Path("runs/table"))
    parser.add_argument("--to", type=Path, default=Path("docs/accuracy.png"))
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.task == "run":
        run(chosen.out, chosen.workers)
    elif chosen.task == "table":
        print(table(chosen.out))
    else:
        plot(chosen.out, chosen.to)
