"""Accuracy of FLASH and its baselines (dense, NST, PDST, SPDST, JMWST) on Fashion-MNIST.

    python benchmarks/accuracy/fashion_mnist.py run       # hours on two cores; finished runs are skipped
    python benchmarks/accuracy/fashion_mnist.py digest    # results/fashion_mnist.csv and fashion_mnist_curves.csv
    python benchmarks/accuracy/fashion_mnist.py table     # the Markdown table of docs/results.md
    python benchmarks/accuracy/fashion_mnist.py plot      # docs/accuracy.png

``run`` writes run directories to ``--out``, ``digest`` summarizes them, ``table`` and ``plot`` read the digest.
An accuracy is the mean of the last five rounds of a run; a cell is mean and standard deviation over seeds.
"""

import argparse
import itertools
import statistics
from collections import defaultdict
from pathlib import Path

from study import (
    FLASH_RUNS,
    MISMATCH_ROUNDS,
    RESULTS,
    SEEDS,
    Run,
    key_of,
    mean,
    mean_and_deviation,
    read_metrics,
    read_table,
    run_all,
    write_flash_runs,
    write_table,
)

SCHEDULERS = ("dense", "nst", "pdst", "spdst", "jmwst")
DENSITIES = (0.05, 0.1)
COMPAT = ("official", "ours")
DENSE_LECUN = ("model.init=lecun",)  # dense training from the initial variance of the sparse schedulers
CURVES = RESULTS / "fashion_mnist_curves.csv"


def all_runs() -> list[Run]:
    """Every run; the runs of a seed come before those of the next, so a stopped study is complete for fewer seeds."""
    cells = [(s, d) for s, d in itertools.product(SCHEDULERS, DENSITIES) if s != "dense" or d == DENSITIES[0]]
    runs = []
    for seed in SEEDS:
        runs += [Run(scheduler, compat, density, seed) for compat in COMPAT for scheduler, density in cells]
        runs.append(Run("dense", "ours", DENSITIES[0], seed, "dense_lecun", DENSE_LECUN))
    return runs


def plotted_runs() -> list[Run]:
    return [Run(scheduler, "ours", DENSITIES[0], seed) for scheduler in SCHEDULERS for seed in SEEDS]


def digest(out: Path) -> None:
    """Summarize the run directories: one row per run, and the accuracies per round of the plotted runs."""
    write_flash_runs(out)
    finished = [run for run in plotted_runs() if run.finished(out)]
    curves = [
        {
            "scheduler": run.config,
            "seed": run.seed,
            "round": row["round"],
            "accuracy": f"{100 * float(row['val_acc']):.8f}",
        }
        for run in finished
        for row in read_metrics(run.directory(out))
        if row["val_acc"]
    ]
    if len(finished) == len(plotted_runs()):
        write_table(CURVES, curves)
        print(f"{CURVES}: {len(curves)} points")


def table() -> str:
    """The Markdown table; the mismatch is the mean pairwise mask mismatch of a round's clients with our defaults."""
    lines = [
        "| method | d | official | official, union | ours | ours, union | ours - official by seed "
        "| mismatch, round 1 / 10 / 30 / 60 | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = {key_of(row): row for row in read_table(FLASH_RUNS)}
    for experiment, density in dict.fromkeys((run.experiment, run.density) for run in all_runs()):
        by_seed = {
            compat: {
                seed: rows[key] for seed in SEEDS if (key := (compat, experiment, f"{density}", f"{seed}")) in rows
            }
            for compat in COMPAT
        }
        official, ours = by_seed["official"], by_seed["ours"]
        accuracies = [
            mean_and_deviation([float(row[column]) for row in by_seed[compat].values()])
            for compat in COMPAT
            for column in ("accuracy", "accuracy_union")
        ]
        gains = [
            f"{float(ours[seed]['accuracy']) - float(official[seed]['accuracy']):+.1f}"
            for seed in SEEDS
            if seed in ours and seed in official
        ]
        mismatch = [f"{mean(list(ours.values()), f'mismatch_{round}'):.3f}" for round in MISMATCH_ROUNDS if ours]
        names = {"dense": ("dense", "1"), "dense_lecun": ("dense, `model.init=lecun`", "1")}
        name = names.get(experiment, (experiment.upper(), f"{density}"))
        counts = f"{len(official)}, {len(ours)}"
        lines.append(f"| {' | '.join((*name, *accuracies, ' '.join(gains), ' / '.join(mismatch), counts))} |")
    return "\n".join(lines)


def plot(to: Path) -> None:
    """Draw accuracy per round at the first density, with our defaults, as means over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    curves = read_table(CURVES)
    for scheduler in SCHEDULERS:
        by_round = defaultdict(list)
        for point in curves:
            if point["scheduler"] == scheduler:
                by_round[int(point["round"])].append(float(point["accuracy"]))
        label = "dense (d = 1)" if scheduler == "dense" else f"{scheduler.upper()} (d = {DENSITIES[0]})"
        axes.plot(list(by_round), list(map(statistics.fmean, by_round.values())), label=label, marker=".")
    axes.set(xlabel="round", ylabel="test accuracy, %", title="Fashion-MNIST, MNISTNet, 10 of 100 clients a round")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(to, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "digest", "table", "plot"])
    parser.add_argument("--out", type=Path, default=Path("runs/fashion_mnist"), help="folder of the run directories")
    parser.add_argument("--to", type=Path, default=Path("docs/accuracy.png"), help="file of the figure")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time")
    arguments = parser.parse_args()
    if arguments.task == "run":
        run_all(all_runs(), arguments.out, arguments.workers)
    elif arguments.task == "digest":
        digest(arguments.out)
    elif arguments.task == "table":
        print(table())
    else:
        plot(arguments.to)
