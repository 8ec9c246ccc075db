"""Clients of three budgets on Fashion-MNIST: runs every cell of the hetero tables in docs/results.md, then prints them.

    python benchmarks/hetero.py run      # hours on two cores; finished runs are skipped
    python benchmarks/hetero.py table    # Markdown

30, 30 and 40 of 100 clients afford 0.5 d, 0.75 d and d. The contenders: (a) all clients afford d, (b) all clients
train what the weakest can afford, 0.5 d, (c) only the 40 clients that afford d take part, ten of them in every round
(stage 1 still asks clients of all three kinds). Runs that benchmarks/fashion_mnist.py also needs are shared with it.
A cell is the mean accuracy of the last five rounds, then mean and standard deviation over seeds.
"""

import argparse
from pathlib import Path

from study import SEEDS, Run, last_five, run_all, spread

METHODS = ("spdst", "jmwst")
DENSITIES = (0.1, 0.2)
# All who take part have the same budget, so their average is the plain one, as in (a) and (b).
LARGE_ONLY = ("sampler={name: availability, offline: [1, 1, 0]}", "aggregator=fedavg")


def hetero(method: str, density: float, seed: int, compat: str = "ours") -> Run:
    return Run(f"hetero_{method}", compat, density, seed)


def contenders(method: str, density: float, seed: int) -> dict[str, Run]:
    """What hetero runs are held against."""
    large = Run(f"hetero_{method}", "ours", density, seed, f"large_{method}", LARGE_ONLY)
    return {
        "a: all afford d": Run(method, "ours", density, seed),
        "b: all at 0.5 d": Run(method, "ours", density / 2, seed),
        "c: only those that afford d": large,
    }


def all_runs() -> list[Run]:
    """Every run, our defaults first, and all of one seed before the next."""
    cells = [(method, density) for density in DENSITIES for method in METHODS]
    ours = [
        run
        for seed in SEEDS
        for method, density in cells
        for run in (hetero(method, density, seed), *contenders(method, density, seed).values())
    ]
    return [*ours, *(hetero(*cell, seed, "official") for seed in SEEDS for cell in cells)]


def accuracy(runs: list[Run], out: Path, column: str = "val_acc") -> str:
    return spread([last_five(run.directory(out), column) for run in runs if run.done(out)])


def table(out: Path) -> str:
    """Two Markdown tables of all finished runs: the server's model, and the model of every tier."""
    names = list(contenders("spdst", 0.1, 1))
    lines = [f"| method | d | hetero | official | {' | '.join(names)} | seeds |", "|---|" + "---|" * (4 + len(names))]
    for density in DENSITIES:
        for method in METHODS:
            ours = [hetero(method, density, seed) for seed in SEEDS]
            official = [hetero(method, density, seed, "official") for seed in SEEDS]
            against = [accuracy([contenders(method, density, seed)[name] for seed in SEEDS], out) for name in names]
            counts = f"{sum(run.done(out) for run in official)}, {sum(run.done(out) for run in ours)}"
            cells = (f"hetero-{method.upper()}", f"{density}", accuracy(ours, out), accuracy(official, out))
            lines.append(f"| {' | '.join((*cells, *against, counts))} |")
    lines += ["", "| method | d | at 0.5 d | at 0.75 d | at d |", "|---|---|---|---|---|"]
    for density in DENSITIES:
        for method in METHODS:
            runs = [hetero(method, density, seed) for seed in SEEDS]
            tiers = [accuracy(runs, out, f"val_acc_d{ratio * density:g}") for ratio in (0.5, 0.75, 1)]
            lines.append(f"| hetero-{method.upper()} | {density} | {' | '.join(tiers)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/table"))
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.task == "run":
        run_all(all_runs(), chosen.out, chosen.workers)
    else:
        print(table(chosen.out))
