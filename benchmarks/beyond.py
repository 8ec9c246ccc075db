"""STEAD against tuned rivals on the test set.

    python benchmarks/beyond.py run mnistnet --rounds 60     # hours; does what benchmarks/results/beyond.csv lacks
    python benchmarks/beyond.py run mnistnet --rounds 200    # goes on from there
    python benchmarks/beyond.py run digits                   # the same settings on other data
    python benchmarks/beyond.py run leaf_cnn --accelerator gpu    # and with another network
    python benchmarks/beyond.py table mnistnet               # Markdown
    python benchmarks/beyond.py plot                         # docs/beyond.png

Every contender has one setting everywhere: the one that the search on held-out samples of Fashion-MNIST with MNISTNet
found best for it (``trials.py``, docs/beyond.md), for SparsyFed and dense training at d = 0.05 alone. STEAD's was
chosen on the digits too, so there FLASH's two methods also run with its learning rate and momentum (``_lr0.1``), and
STEAD with theirs on LEAF CNN (``_lr0.05``), which was added once the other figures of that network were known. With
initial weights as drawn (``_drawn``) they were tried late. All deploy the mean over rounds. A line of the file is what
a run had reached after so many rounds: accuracy of the deployed model on the test images, where a task ends the mean of
the last five rounds; bytes of all messages, a first stage included; FLOPs of all training.
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

from study import DIVERGED, Row, accuracy, difference, has_diverged, mean, read, rows, whole, write

from flash_pl import plotting
from flash_pl.checkpoint import write_atomically

RESULTS = Path(__file__).parent / "results" / "beyond.csv"
FIELDS = ("task", "contender", "alpha", "density", "seed", "rounds", "accuracy", "MB_up", "MB_down", "flops")
EVERY = 15  # rounds between evaluations
ON_THE_WAY = "0.05", "0.01"  # densities of which intermediate rounds are shown
COMMON = [
    "round_average=polynomial",
    f"trainer.eval_every={EVERY}",
    "trainer.eval_last=5",
    "trainer.checkpoint_every=0",
]
COMMON += ["trainer.threads=1", "trainer.progress=false"]


@dataclass(frozen=True)
class Task:
    """Data and network, and what is compared on them."""

    settings: tuple[str, ...]
    contenders: dict[str, str]  # by name, the arguments after ``flash-pl fit``
    alphas: tuple[str, ...]
    densities: tuple[str, ...]
    seeds: tuple[int, ...]
    stops: tuple[int, ...]  # rounds at which accuracies are means of five


OURS = "stead"
CONTENDERS = {
    "dense": "dense server_optimizer.momentum=0.5",
    "stead": "stead",
    "spdst": "spdst lr=0.05 server_optimizer.momentum=0.9",
    "jmwst": "jmwst lr=0.05 server_optimizer.momentum=0.9",
    "ssfl": "ssfl lr=0.05 server_optimizer.momentum=0.9",
    "sparsyfed": "sparsyfed model.init=lecun server_optimizer.momentum=0.5",
}
AS_DRAWN = {  # instead of scaled by the layers' densities
    "spdst_drawn": f"{CONTENDERS['spdst']} scheduler.first_mask.initialize=as_drawn",
    "jmwst_drawn": f"{CONTENDERS['jmwst']} scheduler.first_mask.initialize=as_drawn",
}
ON_DIGITS = {
    "spdst_lr0.1": "spdst lr=0.1 server_optimizer.momentum=0.5",
    "jmwst_lr0.1": "jmwst lr=0.1 server_optimizer.momentum=0.5",
}
ON_LEAF_CNN = {"stead_lr0.05": "stead lr=0.05 server_optimizer.momentum=0.9"}
EVERYONE = [*CONTENDERS, *AS_DRAWN, *ON_DIGITS, *ON_LEAF_CNN]
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


def run(wanted: Iterable[Cell], rounds: int, out: Path, workers: int, accelerator: str) -> None:
    """Whatever of these has no line among the results yet."""
    found, lock = {key(line): line for line in read(RESULTS)}, Lock()

    def one(cell: Cell) -> None:
        for stop in TASKS[cell[0]].stops:
            if stop <= rounds and (*cell, str(stop)) not in found:
                lines = outcome(cell, out / "-".join(cell), stop, accelerator)
                with lock:
                    found.update({key(line): line for line in lines if key(line) not in found})
                    write(RESULTS, [found[line] for line in sorted(found, key=order)])
                    print(*cell, stop, *(line["accuracy"] for line in lines[-1:]), flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, wanted))


def cells(name: str) -> Iterator[Cell]:
    """What is compared in a task; dense training has no density of its own."""
    task = TASKS[name]
    for seed, alpha, contender in product(task.seeds, task.alphas, task.contenders):
        for density in sorted({at(contender, density) for density in task.densities}):
            yield name, contender, alpha, density, str(seed)


def at(contender: str, density: str) -> str:
    """The density of a contender's runs that stand beside those of ``density``."""
    return "1" if contender == "dense" else density


def outcome(cell: Cell, folder: Path, stop: int, accelerator: str) -> list[Row]:
    """Train to round ``stop``, from a checkpoint if there is one; a line for every fifteenth round and the last."""
    name, contender, alpha, density, seed = cell
    method, *settings = TASKS[name].contenders[contender].split()
    settings += [*TASKS[name].settings, *COMMON, f"alpha={alpha}", f"seed={seed}", f"rounds={stop}"]
    settings += [f"trainer.accelerator={accelerator}"]
    settings += [f"density={density}"] if density != "1" else []
    command = [sys.executable, "-m", "flash_pl", "fit", method, *settings, f"run_dir={folder}", "ckpt_path=last"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(*cell, done.stderr[-200:], flush=True)
        given = dict(zip(FIELDS, (*cell, str(stop), DIVERGED), strict=False))
        return [dict.fromkeys(FIELDS, "") | given] if has_diverged(done.stderr) else []
    seen = {int(line["round"]): line for line in rows(folder) if line["val_acc"]}
    found = []
    for round in (round for round in seen if round % EVERY == 0 or round == stop):
        near = range(round - 4, round + 1) if round == stop else [round]
        reached = (
            f"{100 * fmean(float(seen[one]['val_acc']) for one in near):.3f}",
            *(f"{float(seen[round][column]) / 1e6:.3f}" for column in ("bytes_up_total", "bytes_down_total")),
            f"{float(seen[round]['flops_total']):.6g}",
        )
        found.append(dict(zip(FIELDS, (*cell, str(round), *reached), strict=True)))
    return found


def key(line: Row) -> tuple[str, ...]:
    """Cell and rounds."""
    return tuple(line[name] for name in FIELDS[:6])


def order(key: tuple[str, ...]) -> tuple[object, ...]:
    task, contender, alpha, density, seed, rounds = key
    place = list(TASKS).index(task), list(TASKS[task].contenders).index(contender)
    return *place, -float(alpha), -float(density), int(seed), int(rounds)


def by_setting(name: str) -> dict[tuple[str, ...], list[Row]]:
    """The runs of a task by (contender, alpha, density, rounds), one a seed."""
    found = defaultdict(list)
    for line in read(RESULTS):
        if line["task"] == name:
            found[line["contender"], line["alpha"], line["density"], line["rounds"]].append(line)
    return found


def table(name: str) -> None:
    """Accuracies, then what STEAD is ahead by in the same seeds, also on the way, then what a run costs."""
    task, found = TASKS[name], by_setting(name)
    for stop, alpha in product(map(str, task.stops), task.alphas):
        densities = [d for d in task.densities if found[OURS, alpha, d, stop]]
        head = f"| | {' | '.join(f'd = {d}' for d in densities)} |\n|---|{len(densities) * '---|'}"
        for above in (False, True):
            if densities:
                print(f"\n{stop} rounds, alpha = {alpha}{', STEAD above' if above else ''}\n\n{head}")
            for contender in task.contenders if not above else [other for other in task.contenders if other != OURS]:
                pairs = [
                    (found[OURS, alpha, d, stop], found[contender, alpha, at(contender, d), stop]) for d in densities
                ]
                row = [difference(ours, theirs) if above else accuracy(theirs) for ours, theirs in pairs]
                if any(theirs for _, theirs in pairs):
                    print(f"| {contender} | {' | '.join(row)} |")
    first = str(task.stops[0])
    way = [str(rounds) for rounds in range(EVERY, task.stops[0] + 1, EVERY)]
    for alpha, density in product(task.alphas, ON_THE_WAY):
        print(f"\n| STEAD above, alpha = {alpha}, d = {density} | {' | '.join(way)} rounds |\n|---|{len(way) * '---|'}")
        for contender in task.contenders:
            cell = contender, alpha, at(contender, density)
            runs = [(found[OURS, alpha, density, rounds], found[(*cell, rounds)]) for rounds in way]
            if contender != OURS and any(theirs for _, theirs in runs):
                print(f"| {contender} | {' | '.join(difference(*pair) for pair in runs)} |")
    for density in task.densities:
        print(f"\n| d = {density}, alpha = 1, {first} rounds | MB up | MB down | FLOPs, dense = 1 |\n|---|---|---|---|")
        dense = found["dense", "1", "1", first]
        for contender in task.contenders:
            if runs := whole(found[contender, "1", at(contender, density), first]):
                numbers = [f"{mean(runs, name):.1f}" for name in ("MB_up", "MB_down")]
                counted = any(run["flops"] for run in runs)
                work = f"{mean(runs, 'flops') / mean(dense, 'flops'):.2f}" if counted else "-"
                print(f"| {contender} | {' | '.join(numbers)} | {work} |")


def plot(to: Path) -> None:
    """Accuracy against uploaded megabytes on Fashion-MNIST, a picture for each partition and density.

    Lines go to round 60, where all seeds are.
    """
    found, last = by_setting("mnistnet"), TASKS["mnistnet"].stops[0]
    figure, axes = plotting.new_figure(4, across=2, height=4.2)
    for panel, (density, alpha) in zip(axes, product(ON_THE_WAY, TASKS["mnistnet"].alphas), strict=True):
        for index, contender in enumerate(CONTENDERS):
            cell = contender, alpha, at(contender, density)
            reached = sorted((int(where[3]), whole(runs)) for where, runs in found.items() if where[:3] == cell)
            path = [(mean(runs, "MB_up"), mean(runs, "accuracy")) for round, runs in reached if runs and round <= last]
            panel.plot(*zip(*path, strict=True), **plotting.line_style(index), label=contender)
        panel.set(xlabel="MB uploaded", ylabel="accuracy, %", title=f"d = {density}, alpha = {alpha}")
        plotting.set_log_scale(panel.xaxis)
    plotting.legend_below(figure, axes)
    write_atomically(to, plotting.as_png(figure))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table", "plot"])
    parser.add_argument("task", choices=list(TASKS), nargs="?", default="mnistnet")
    parser.add_argument("--out", type=Path, default=Path("runs/beyond"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3", "4", "5"])
    parser.add_argument("--densities", nargs="+", default=list(TASKS["mnistnet"].densities))
    parser.add_argument("--contenders", nargs="+", choices=EVERYONE, default=EVERYONE)
    parser.add_argument("--accelerator", default="cpu", help="where to train")
    parser.add_argument("--to", type=Path, default=Path("docs/beyond.png"))
    chosen = parser.parse_args()
    if chosen.what == "run":
        wanted = [
            (task, contender, alpha, density, seed)
            for task, contender, alpha, density, seed in cells(chosen.task)
            if contender in chosen.contenders and density in ("1", *chosen.densities) and seed in chosen.seeds
        ]
        run(wanted, chosen.rounds, chosen.out, chosen.workers, chosen.accelerator)
    elif chosen.what == "table":
        table(chosen.task)
    else:
        plot(chosen.to)
