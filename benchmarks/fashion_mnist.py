"""The five methods on Fashion-MNIST: runs every cell of the table in docs/results.md, then prints it.

    python benchmarks/fashion_mnist.py run      # hours on two cores; finished runs are skipped
    python benchmarks/fashion_mnist.py table    # Markdown
    python benchmarks/fashion_mnist.py plot     # docs/accuracy.png

A cell is the mean accuracy of the last five rounds, then mean and standard deviation over seeds.
"""

import argparse
import itertools
import statistics
from pathlib import Path

from study import SEEDS, Run, last_five, rows, run_all, spread

METHODS = ("dense", "nst", "pdst", "spdst", "jmwst")
DENSITIES = (0.05, 0.1)
COMPAT = ("official", "ours")
# What the initial variance of the sparse methods does to a dense network.
DENSE_LECUN = ("model.init=lecun",)


def all_runs() -> list[Run]:
    """Every run, all of one seed before the next, so that a stopped study is a whole one with fewer seeds."""
    cells = [(m, d) for m, d in itertools.product(METHODS, DENSITIES) if m != "dense" or d == DENSITIES[0]]
    runs = []
    for seed in SEEDS:
        runs += [Run(method, compat, density, seed) for compat in COMPAT for method, density in cells]
        runs.append(Run("dense", "ours", DENSITIES[0], seed, "dense_lecun", DENSE_LECUN))
    return runs


def table(out: Path) -> str:
    """The Markdown table of all finished runs; mismatch is our defaults' pairwise one of the clients."""
    lines = [
        "| method | d | official | official, union | ours | ours, union | ours - official by seed "
        "| mismatch, round 1 / 10 / 30 / 60 | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method, density in dict.fromkeys((job.label, job.density) for job in all_runs()):
        cell = {
            compat: {
                job.seed: job.directory(out)
                for job in all_runs()
                if job.done(out) and (job.compat, job.label, job.density) == (compat, method, density)
            }
            for compat in COMPAT
        }
        accuracy = [
            spread([last_five(directory, column) for directory in cell[compat].values()])
            for compat in COMPAT
            for column in ("val_acc", "val_acc_union")
        ]
        gains = [
            f"{last_five(cell['ours'][seed], 'val_acc') - last_five(cell['official'][seed], 'val_acc'):+.1f}"
            for seed in SEEDS
            if seed in cell["ours"] and seed in cell["official"]
        ]
        drift = " / ".join(
            f"{statistics.fmean(float(rows(d)[r - 1]['mismatch_clients']) for d in cell['ours'].values()):.3f}"
            for r in (1, 10, 30, 60)
            if cell["ours"]
        )
        names = {"dense": ("dense", "1"), "dense_lecun": ("dense, `model.init=lecun`", "1")}
        name = names.get(method, (method.upper(), f"{density}"))
        counts = f"{len(cell['official'])}, {len(cell['ours'])}"
        lines.append(f"| {' | '.join((*name, *accuracy, ' '.join(gains), drift, counts))} |")
    return "\n".join(lines)


def plot(out: Path, to: Path) -> None:
    """Accuracy per round of the five methods at the first density, our defaults, mean over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for method in METHODS:
        known: dict[int, list[float]] = {}
        for job in all_runs():
            if (job.compat, job.label, job.density) != ("ours", method, DENSITIES[0]):
                continue
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
        run_all(all_runs(), chosen.out, chosen.workers)
    elif chosen.task == "table":
        print(table(chosen.out))
    else:
        plot(chosen.out, chosen.to)
