"""Accuracy of hetero-FLASH on Fashion-MNIST: clients of three budgets against clients of one.

    python benchmarks/accuracy/hetero.py run       # hours on two cores; finished runs are skipped
    python benchmarks/accuracy/hetero.py digest    # results/fashion_mnist.csv
    python benchmarks/accuracy/hetero.py table     # the Markdown tables of docs/results.md

30, 30 and 40 of 100 clients can train densities 0.5 d, 0.75 d and d. Settings to compare with:

a. all clients can train d;
b. all clients train 0.5 d, the density of the weakest, with the plain average and with the masked average that tiers
   need (the same for SPDST, whose clients have one mask);
c. only the 40 clients that can train d take part, ten of them in every round (stage 1 still asks clients of all three
   kinds).

``run`` writes run directories to ``--out`` and shares them with fashion_mnist.py, ``digest`` summarizes them, ``table``
reads the digest. An accuracy is the mean of the last five rounds of a run; a cell is mean and standard deviation over
seeds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from study import (
    FLASH_RUNS,
    SEEDS,
    TIERS,
    Row,
    Run,
    key_of,
    mean_and_deviation,
    read_table,
    run_all,
    write_flash_runs,
)

SCHEDULERS = ("spdst", "jmwst")
DENSITIES = (0.1, 0.2)
# All clients that take part have the same budget, so their average is the plain one, as in a and b.
LARGE_ONLY = ("sampler={name: availability, offline: [1, 1, 0]}", "aggregator=fedavg")


def hetero(scheduler: str, density: float, seed: int, compat: str = "ours") -> Run:
    return Run(f"hetero_{scheduler}", compat, density, seed)


def contenders(scheduler: str, density: float, seed: int) -> dict[str, Run]:
    """The runs that a hetero run is compared with."""
    half = Run(scheduler, "ours", density / 2, seed)
    masked = Run("jmwst", "ours", density / 2, seed, "jmwst_masked", ("aggregator=masked",))
    large = Run(f"hetero_{scheduler}", "ours", density, seed, f"large_{scheduler}", LARGE_ONLY)
    return {
        "a: all afford d": Run(scheduler, "ours", density, seed),
        "b: all at 0.5 d": half,
        "b, masked average": masked if scheduler == "jmwst" else half,
        "c: only those that afford d": large,
    }


def all_runs() -> list[Run]:
    """Every run: our defaults before the official settings, a seed before the next."""
    cells = [(scheduler, density) for density in DENSITIES for scheduler in SCHEDULERS]
    ours = [
        run
        for seed in SEEDS
        for scheduler, density in cells
        for run in (hetero(scheduler, density, seed), *contenders(scheduler, density, seed).values())
    ]
    return [*ours, *(hetero(*cell, seed, "official") for seed in SEEDS for cell in cells)]


def table() -> str:
    """Two Markdown tables: accuracy of the server's model, and of the model of every tier."""
    digest = {key_of(row): row for row in read_table(FLASH_RUNS)}

    def rows(runs: Sequence[Run]) -> list[Row]:
        return [digest[run.key] for run in runs if run.key in digest]

    def accuracy(runs: Sequence[Run], column: str = "accuracy") -> str:
        return mean_and_deviation([float(row[column]) for row in rows(runs)])

    names = list(contenders("spdst", 0.1, 1))
    lines = [f"| method | d | hetero | official | {' | '.join(names)} | seeds |", "|---|" + "---|" * (4 + len(names))]
    for density in DENSITIES:
        for scheduler in SCHEDULERS:
            ours = [hetero(scheduler, density, seed) for seed in SEEDS]
            official = [hetero(scheduler, density, seed, "official") for seed in SEEDS]
            others = [accuracy([contenders(scheduler, density, seed)[name] for seed in SEEDS]) for name in names]
            counts = f"{len(rows(official))}, {len(rows(ours))}"
            cells = (f"hetero-{scheduler.upper()}", f"{density}", accuracy(ours), accuracy(official), *others, counts)
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| method | d | at 0.5 d | at 0.75 d | at d |", "|---|---|---|---|---|"]
    for density in DENSITIES:
        for scheduler in SCHEDULERS:
            runs = [hetero(scheduler, density, seed) for seed in SEEDS]
            tiers = [accuracy(runs, f"accuracy_tier_{tier:g}") for tier in TIERS]
            lines.append(f"| hetero-{scheduler.upper()} | {density} | {' | '.join(tiers)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "digest", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/fashion_mnist"), help="folder of the run directories")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time")
    arguments = parser.parse_args()
    if arguments.task == "run":
        run_all(all_runs(), arguments.out, arguments.workers)
    elif arguments.task == "digest":
        write_flash_runs(arguments.out)
    else:
        print(table())
