"""STEAD against tuned rivals on the test set: Fashion-MNIST, two partitions, four densities, five seeds, 200 rounds.

    python benchmarks/beyond.py run --rounds 60      # hours; does what is missing in benchmarks/results/beyond.csv
    python benchmarks/beyond.py run --rounds 200     # goes on from there
    python benchmarks/beyond.py table                # Markdown
    python benchmarks/beyond.py plot                 # docs/beyond.png

Every contender has one setting for all cells: the one that the search on held-out samples (``trials.py``, seeds 11 and
12, d = 0.05 and 0.01) found best for it. "plain" is without momentum at the server, "momentum" with the momentum and
learning rate that suit it; all deploy the mean over rounds. A line of the file is what a run had reached after so many
rounds: accuracy of the deployed model on the 10,000 test images, at 60 and 200 the mean of the last five rounds; bytes
of all messages, a first stage included; FLOPs of all training.
"""

import argparse
import itertools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from threading import Lock

from study import DIVERGED, Row, accuracy, difference, mean, read, rows, whole, write

from flash_pl import drawing
from flash_pl.checkpoint import write_whole

ALPHAS, DENSITIES, SEEDS, STOPS = ("1", "0.1"), ("0.1", "0.05", "0.02", "0.01"), (1, 2, 3, 4, 5), (60, 200)
EVERY = 15
COMMON = ["data=fashion_mnist", "average=polynomial", f"trainer.eval_every={EVERY}", "trainer.eval_last=5"]
COMMON += ["trainer.accelerator=cpu", "trainer.threads=1", "trainer.checkpoint_every=0", "trainer.progress=false"]
RESULTS = Path(__file__).parent / "results" / "beyond.csv"
FIELDS = ("contender", "alpha", "density", "seed", "rounds", "accuracy", "MB_up", "MB_down", "flops")
Cell = tuple[str, str, str, str]  # contender, alpha, density, seed
OURS = "stead"
CONTENDERS = {
    "dense, plain": "dense",
    "dense, momentum": "dense server_optimizer.momentum=0.5",
    "stead": "stead",
    "spdst, momentum": "spdst scheduler.first_mask.initialise=as_drawn server_optimizer.momentum=0.5",
}


def run(out: Path, workers: int, rounds: int, seeds: Sequence[int]) -> None:
    """Whatever has no line among the results yet."""
    found, lock = {cell_of(line): line for line in read(RESULTS)}, Lock()

    def one(cell: Cell) -> None:
        for stop in STOPS:
            if stop <= rounds and (*cell, str(stop)) not in found:
                lines = outcome(cell, out / "-".join(cell).replace(", ", "-"), stop)
                with lock:
                    found.update({cell_of(line): line for line in lines})
                    write(RESULTS, [found[cell] for cell in sorted(found, key=order)])
                    print(*cell, stop, lines[-1]["accuracy"], flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, cells(seeds)))


def cells(seeds: Sequence[int]) -> Iterator[Cell]:
    """What is compared; dense training has no density of its own."""
    for seed, density, alpha, contender in itertools.product(seeds, ("1", *DENSITIES), ALPHAS, CONTENDERS):
        if (density == "1") == contender.startswith("dense"):
            yield contender, alpha, density, str(seed)


def outcome(cell: Cell, folder: Path, stop: int) -> list[Row]:
    """Train to round ``stop``, from a checkpoint if there is one; a line for every fifteenth round and the last."""
    contender, alpha, density, seed = cell
    method, *settings = CONTENDERS[contender].split()
    settings += [*COMMON, f"alpha={alpha}", f"seed={seed}", f"rounds={stop}", f"run_dir={folder}", "ckpt_path=last"]
    settings += [f"density={density}"] if density != "1" else []
    done = subprocess.run([sys.executable, "-m", "flash_pl", "fit", method, *settings], capture_output=True, text=True)
    if done.returncode:
        print(*cell, done.stderr.strip().rpartition("\n")[2], flush=True)
        return [dict.fromkeys(FIELDS, "") | dict(zip(FIELDS, (*cell, str(stop), DIVERGED), strict=False))]
    seen = {int(line["round"]): line for line in rows(folder) if line["val_acc"]}
    found = []
    for round in (round for round in seen if round % EVERY == 0 or round == stop):
        near = range(round - 4, round + 1) if round in STOPS else [round]
        reached = (
            f"{100 * fmean(float(seen[near]['val_acc']) for near in near):.3f}",
            *(f"{float(seen[round][name]) / 1e6:.3f}" for name in ("bytes_up_total", "bytes_down_total")),
            f"{float(seen[round]['flops_total']):.6g}",
        )
        found.append(dict(zip(FIELDS, (*cell, str(round), *reached), strict=True)))
    return found


def cell_of(line: Row) -> tuple[str, ...]:
    return tuple(line[name] for name in FIELDS[:5])


def order(cell: tuple[str, ...]) -> tuple[object, ...]:
    contender, alpha, density, seed, rounds = cell
    return list(CONTENDERS).index(contender), -float(alpha), -float(density), int(seed), int(rounds)


def by_cell() -> dict[tuple[str, ...], list[Row]]:
    """The runs of (contender, alpha, density, rounds), one a seed."""
    found = defaultdict(list)
    for line in read(RESULTS):
        found[line["contender"], line["alpha"], line["density"], line["rounds"]].append(line)
    return found


def at(contender: str, density: str) -> str:
    """The density of a contender's runs that stand beside those of ``density``: dense training has one."""
    return "1" if contender.startswith("dense") else density


def table() -> None:
    """Accuracies, then what STEAD is ahead by in the same seeds, then what a run costs."""
    found = by_cell()
    head = f"| contender | {' | '.join(f'd = {d}' for d in DENSITIES)} |\n|---|{len(DENSITIES) * '---|'}"
    for rounds, alpha in itertools.product(map(str, STOPS), ALPHAS):
        for above in (False, True):
            print(f"\n{rounds} rounds, alpha = {alpha}{', STEAD above' if above else ''}\n\n{head}")
            for contender in CONTENDERS:
                if above and contender == OURS:
                    continue
                row = []
                for density in DENSITIES:
                    runs = found[contender, alpha, at(contender, density), rounds]
                    ours = found[OURS, alpha, density, rounds]
                    row.append(difference(ours, runs) if above else accuracy(runs))
                print(f"| {contender} | {' | '.join(row)} |")
    for density in ("0.05", "0.01"):
        print(f"\n| d = {density}, alpha = 1 | MB up, 60 rounds | MB down | FLOPs, dense = 1 |\n|---|---|---|---|")
        dense = found["dense, plain", "1", "1", "60"]
        for contender in CONTENDERS:
            if runs := whole(found[contender, "1", at(contender, density), "60"]):
                numbers = [f"{mean(runs, name):.1f}" for name in ("MB_up", "MB_down")]
                print(f"| {contender} | {' | '.join(numbers)} | {mean(runs, 'flops') / mean(dense, 'flops'):.2f} |")


def plot(to: Path) -> None:
    """Accuracy against uploaded megabytes, a picture for each partition and of two densities."""
    found = by_cell()
    figure, axes = drawing.new_figure(4, across=2, height=4.2)
    for panel, (density, alpha) in zip(axes, itertools.product(("0.05", "0.01"), ALPHAS), strict=True):
        for index, contender in enumerate(CONTENDERS):
            cell = contender, alpha, at(contender, density)
            reached = sorted((int(key[3]), whole(runs)) for key, runs in found.items() if key[:3] == cell)
            path = [(mean(runs, "MB_up"), mean(runs, "accuracy")) for _, runs in reached]
            panel.plot(*zip(*path, strict=True), **drawing.line_style(index), label=contender)
        panel.set(xlabel="MB uploaded", ylabel="accuracy, %", title=f"d = {density}, alpha = {alpha}")
        drawing.logarithmic(panel.xaxis)
    drawing.legend_below(figure, axes)
    write_whole(to, drawing.as_png(figure))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "table", "plot"])
    parser.add_argument("--out", type=Path, default=Path("runs/beyond"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, choices=STOPS, default=STOPS[-1])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--to", type=Path, default=Path("docs/beyond.png"))
    chosen = parser.parse_args()
    if chosen.task == "run":
        run(chosen.out, chosen.workers, chosen.rounds, chosen.seeds)
    elif chosen.task == "table":
        table()
    else:
        plot(chosen.to)
