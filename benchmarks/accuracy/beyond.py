"""STEAD against tuned rivals on the test set.

    python benchmarks/accuracy/beyond.py run mnistnet --rounds 60     # hours; trains what results/beyond.csv lacks
    python benchmarks/accuracy/beyond.py run mnistnet --rounds 200    # continues these runs
    python benchmarks/accuracy/beyond.py run digits                   # the same settings on other data
    python benchmarks/accuracy/beyond.py run leaf_cnn --accelerator gpu    # and with another network
    python benchmarks/accuracy/beyond.py table mnistnet               # the Markdown tables of trials.md
    python benchmarks/accuracy/beyond.py plot                         # docs/beyond.png

Every contender has the same setting everywhere: the best one of its search on held-out samples of Fashion-MNIST with
MNISTNet (``trials.py``, trials.md), for SparsyFed and dense training at d = 0.05 only. STEAD's setting was chosen on
the digits as well. There SPDST and JMWST also run with STEAD's learning rate and momentum (``_lr0.1``). With LEAF CNN
STEAD also runs with theirs (``_lr0.05``), which was added when the other results of that network were known. SPDST and
JMWST with initial weights as drawn (``_drawn``) were also added late.

All contenders deploy the mean over rounds. A row of the results is the state of a run after a number of rounds:
accuracy of the deployed model on the test images (after the last round of a run: mean of the last five rounds), bytes
of all messages and FLOPs of all training, a first stage included.
"""

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from threading import Lock

from study import (
    DIVERGED,
    RESULTS,
    Row,
    accuracy,
    difference,
    has_diverged,
    mean,
    read_metrics,
    read_table,
    without_diverged,
    write_table,
)

from flash_pl import plotting
from flash_pl.atomic_write import write_atomically

DIGEST = RESULTS / "beyond.csv"
COLUMNS = ("task", "contender", "alpha", "density", "seed", "rounds", "accuracy", "MB_up", "MB_down", "flops")
EVAL_EVERY = 15  # rounds
CURVE_DENSITIES = "0.05", "0.01"  # densities of which rounds before the last are shown
COMMON = [
    "round_average=polynomial",
    f"trainer.eval_every={EVAL_EVERY}",
    "trainer.eval_last=5",
    "trainer.checkpoint_every=0",
]
COMMON += ["trainer.threads=1", "trainer.progress=false"]


@dataclass(frozen=True)
class Task:
    """Data, network and the contenders on them.

    Args:
        settings: arguments of ``flash-pl fit`` for data and network.
        contenders: configuration and arguments after ``flash-pl fit``, by name.
        alphas: Dirichlet partitions.
        densities: target densities.
        seeds: seeds.
        stops: numbers of rounds after which the accuracy is a mean of five rounds.
    """

    settings: tuple[str, ...]
    contenders: dict[str, str]
    alphas: tuple[str, ...]
    densities: tuple[str, ...]
    seeds: tuple[int, ...]
    stops: tuple[int, ...]


OURS = "stead"
CONTENDERS = {
    "dense": "dense server_optimizer.momentum=0.5",
    "stead": "stead",
    "spdst": "spdst lr=0.05 server_optimizer.momentum=0.9",
    "jmwst": "jmwst lr=0.05 server_optimizer.momentum=0.9",
    "ssfl": "ssfl lr=0.05 server_optimizer.momentum=0.9",
    "sparsyfed": "sparsyfed model.init=lecun server_optimizer.momentum=0.5",
}
AS_DRAWN = {  # initial weights as drawn, not scaled by the layers' densities
    "spdst_drawn": f"{CONTENDERS['spdst']} scheduler.first_mask.initialize=as_drawn",
    "jmwst_drawn": f"{CONTENDERS['jmwst']} scheduler.first_mask.initialize=as_drawn",
}
ON_DIGITS = {
    "spdst_lr0.1": "spdst lr=0.1 server_optimizer.momentum=0.5",
    "jmwst_lr0.1": "jmwst lr=0.1 server_optimizer.momentum=0.5",
}
ON_LEAF_CNN = {"stead_lr0.05": "stead lr=0.05 server_optimizer.momentum=0.9"}
ALL_CONTENDERS = [*CONTENDERS, *AS_DRAWN, *ON_DIGITS, *ON_LEAF_CNN]
TASKS = {
    "mnistnet": Task(
        ("data=fashion_mnist",),
        CONTENDERS | AS_DRAWN,
        ("1", "0.1"),
        ("0.1", "0.05", "0.02", "0.01"),
        (1, 2, 3, 4, 5),
        (60, 200),
    ),
    "leaf_cnn": Task(
        ("data=fashion_mnist", "model=leaf_cnn"),
        CONTENDERS | ON_LEAF_CNN,
        ("1",),
        ("0.05", "0.01"),
        (1, 2, 3),
        (60,),
    ),
    "digits": Task(
        ("data=digits",), CONTENDERS | AS_DRAWN | ON_DIGITS, ("1",), ("0.05", "0.01"), (1, 2, 3, 4, 5), (60,)
    ),
}
Cell = tuple[str, str, str, str, str]  # task, contender, alpha, density, seed


def run(cells: Iterable[Cell], rounds: int, out: Path, workers: int, accelerator: str) -> None:
    """Train the cells that the digest lacks."""
    rows, lock = {key_of(row): row for row in read_table(DIGEST)}, Lock()

    def train_cell(cell: Cell) -> None:
        for stop in TASKS[cell[0]].stops:
            if stop <= rounds and (*cell, str(stop)) not in rows:
                new_rows = train(cell, out / "-".join(cell), stop, accelerator)
                with lock:
                    rows.update({key_of(row): row for row in new_rows if key_of(row) not in rows})
                    write_table(DIGEST, [rows[key] for key in sorted(rows, key=order_of)])
                    print(*cell, stop, *(row["accuracy"] for row in new_rows[-1:]), flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(train_cell, cells))


def cells_of(name: str) -> Iterator[Cell]:
    """The cells of a task."""
    task = TASKS[name]
    for seed, alpha, contender in product(task.seeds, task.alphas, task.contenders):
        for density in sorted({density_of(contender, density) for density in task.densities}):
            yield name, contender, alpha, density, str(seed)


def density_of(contender: str, density: str) -> str:
    """The density of the contender's runs in a column of ``density``: dense training has only one."""
    return "1" if contender == "dense" else density


def train(cell: Cell, folder: Path, stop: int, accelerator: str) -> list[Row]:
    """Train to round ``stop``, from a checkpoint if there is one; return a row per 15th round and for the last."""
    name, contender, alpha, density, seed = cell
    config, *settings = TASKS[name].contenders[contender].split()
    settings += [*TASKS[name].settings, *COMMON, f"alpha={alpha}", f"seed={seed}", f"rounds={stop}"]
    settings += [f"trainer.accelerator={accelerator}"]
    settings += [f"density={density}"] if density != "1" else []
    command = [sys.executable, "-m", "flash_pl", "fit", config, *settings, f"run_dir={folder}", "ckpt_path=last"]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        print(*cell, process.stderr[-200:], flush=True)
        row = dict(zip(COLUMNS, (*cell, str(stop), DIVERGED), strict=False))
        return [dict.fromkeys(COLUMNS, "") | row] if has_diverged(process.stderr) else []
    by_round = {int(row["round"]): row for row in read_metrics(folder) if row["val_acc"]}
    rows = []
    for round in (round for round in by_round if round % EVAL_EVERY == 0 or round == stop):
        averaged = range(round - 4, round + 1) if round == stop else [round]
        values = (
            f"{100 * fmean(float(by_round[r]['val_acc']) for r in averaged):.3f}",
            *(f"{float(by_round[round][column]) / 1e6:.3f}" for column in ("bytes_up_total", "bytes_down_total")),
            f"{float(by_round[round]['flops_total']):.6g}",
        )
        rows.append(dict(zip(COLUMNS, (*cell, str(round), *values), strict=True)))
    return rows


def key_of(row: Row) -> tuple[str, ...]:
    """Cell and rounds."""
    return tuple(row[column] for column in COLUMNS[:6])


def order_of(key: tuple[str, ...]) -> tuple[object, ...]:
    """What the rows of the digest are sorted by."""
    task, contender, alpha, density, seed, rounds = key
    place = list(TASKS).index(task), list(TASKS[task].contenders).index(contender)
    return *place, -float(alpha), -float(density), int(seed), int(rounds)


def runs_of(name: str) -> dict[tuple[str, ...], list[Row]]:
    """The runs of a task by (contender, alpha, density, rounds), one per seed."""
    runs = defaultdict(list)
    for row in read_table(DIGEST):
        if row["task"] == name:
            runs[row["contender"], row["alpha"], row["density"], row["rounds"]].append(row)
    return runs


def table(name: str) -> None:
    """Print accuracies, points by which STEAD is above a rival of the same seed, and costs."""
    task, runs = TASKS[name], runs_of(name)
    for stop, alpha in product(map(str, task.stops), task.alphas):
        densities = [d for d in task.densities if runs[OURS, alpha, d, stop]]
        head = f"| | {' | '.join(f'd = {d}' for d in densities)} |\n|---|{len(densities) * '---|'}"
        for above in (False, True):
            if densities:
                print(f"\n{stop} rounds, alpha = {alpha}{', STEAD above' if above else ''}\n\n{head}")
            for contender in [name for name in task.contenders if not above or name != OURS]:
                pairs = [
                    (runs[OURS, alpha, d, stop], runs[contender, alpha, density_of(contender, d), stop])
                    for d in densities
                ]
                cells = [difference(ours, rival) if above else accuracy(rival) for ours, rival in pairs]
                if any(rival for _, rival in pairs):
                    print(f"| {contender} | {' | '.join(cells)} |")
    first = str(task.stops[0])
    rounds = [str(round) for round in range(EVAL_EVERY, task.stops[0] + 1, EVAL_EVERY)]
    for alpha, density in product(task.alphas, CURVE_DENSITIES):
        head = f"| STEAD above, alpha = {alpha}, d = {density} | {' | '.join(rounds)} rounds |"
        print(f"\n{head}\n|---|{len(rounds) * '---|'}")
        for contender in task.contenders:
            cell = contender, alpha, density_of(contender, density)
            pairs = [(runs[OURS, alpha, density, round], runs[(*cell, round)]) for round in rounds]
            if contender != OURS and any(rival for _, rival in pairs):
                print(f"| {contender} | {' | '.join(difference(*pair) for pair in pairs)} |")
    for density in task.densities:
        print(f"\n| d = {density}, alpha = 1, {first} rounds | MB up | MB down | FLOPs, dense = 1 |\n|---|---|---|---|")
        dense = runs["dense", "1", "1", first]
        for contender in task.contenders:
            if kept := without_diverged(runs[contender, "1", density_of(contender, density), first]):
                megabytes = [f"{mean(kept, name):.1f}" for name in ("MB_up", "MB_down")]
                counted = any(run["flops"] for run in kept)
                flops = f"{mean(kept, 'flops') / mean(dense, 'flops'):.2f}" if counted else "-"
                print(f"| {contender} | {' | '.join(megabytes)} | {flops} |")


def plot(to: Path) -> None:
    """Draw accuracy against uploaded megabytes on Fashion-MNIST, one panel per partition and density.

    The curves end at round 60, up to which there are runs of all seeds.
    """
    runs, last = runs_of("mnistnet"), TASKS["mnistnet"].stops[0]
    figure, panels = plotting.new_figure(4, across=2, height=4.2)
    for axes, (density, alpha) in zip(panels, product(CURVE_DENSITIES, TASKS["mnistnet"].alphas), strict=True):
        for index, contender in enumerate(CONTENDERS):
            cell = contender, alpha, density_of(contender, density)
            by_round = sorted((int(key[3]), without_diverged(rows)) for key, rows in runs.items() if key[:3] == cell)
            points = [(mean(rows, "MB_up"), mean(rows, "accuracy")) for r, rows in by_round if rows and r <= last]
            axes.plot(*zip(*points, strict=True), **plotting.line_style(index), label=contender)
        axes.set(xlabel="MB uploaded", ylabel="accuracy, %", title=f"d = {density}, alpha = {alpha}")
        plotting.set_log_scale(axes.xaxis)
    plotting.legend_below(figure, panels)
    write_atomically(to, plotting.as_png(figure))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "table", "plot"])
    parser.add_argument("task", choices=list(TASKS), nargs="?", default="mnistnet")
    parser.add_argument("--out", type=Path, default=Path("runs/beyond"), help="folder of the run directories")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3", "4", "5"])
    parser.add_argument("--densities", nargs="+", default=list(TASKS["mnistnet"].densities))
    parser.add_argument("--contenders", nargs="+", choices=ALL_CONTENDERS, default=ALL_CONTENDERS)
    parser.add_argument("--accelerator", default="cpu", help="where to train")
    parser.add_argument("--to", type=Path, default=Path("docs/beyond.png"), help="file of the figure")
    arguments = parser.parse_args()
    if arguments.command == "run":
        chosen = [
            (task, contender, alpha, density, seed)
            for task, contender, alpha, density, seed in cells_of(arguments.task)
            if contender in arguments.contenders and density in ("1", *arguments.densities) and seed in arguments.seeds
        ]
        run(chosen, arguments.rounds, arguments.out, arguments.workers, arguments.accelerator)
    elif arguments.command == "table":
        table(arguments.task)
    else:
        plot(arguments.to)
