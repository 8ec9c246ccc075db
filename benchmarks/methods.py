"""All methods on Fashion-MNIST at four densities and two partitions: accuracy, bytes, FLOPs, seconds.

    python benchmarks/methods.py run --workers 2     # hours; the same command does what is missing in methods.csv
    python benchmarks/methods.py time                # seconds of a round, on a quiet machine, one run at a time
    python benchmarks/methods.py collect             # benchmarks/results/methods.csv, a line a run; methods_seconds.csv
    python benchmarks/methods.py table               # Markdown
    python benchmarks/methods.py plot                # docs/methods.png

Every method has its shipped settings: 100 clients, ten a round, one local epoch, 30 rounds. Accuracy is that of the
server at density d, the mean of the last five rounds; a run whose numbers grew without bound has "diverged". Bytes are
those of all messages of all clients, a first stage included; FLOPs those of all training, over dense training of the
same samples. Seconds are those of training a round at d = 0.05, the median of rounds 2 to 6 of a run for each seed, in
turn with the other methods'.
"""

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml
from study import DIVERGED, Row, accuracy, difference, has_diverged, last_five, mean, read, rows, whole, write

from flash_pl import plotting
from flash_pl.checkpoint import write_atomically

METHODS = (
    *("pdst", "spdst", "jmwst", "nst", "set", "rigl", "ssfl", "feddst", "fedrts"),
    *("topk", "zerofl", "sparsyfed", "fiarse", "heterofl", "stead"),
)
ALPHAS, DENSITIES, SEEDS, ROUNDS = (1, 0.1), (0.2, 0.1, 0.05, 0.02), (1, 2, 3), 30
COMMON = ["data=fashion_mnist", f"rounds={ROUNDS}", "trainer.eval_every=10", "trainer.eval_last=5"]
COMMON += ["trainer.accelerator=cpu", "trainer.checkpoint_every=0"]
RESULTS = Path(__file__).parent / "results" / "methods.csv"
SECONDS = RESULTS.with_name("methods_seconds.csv")
FRAME = 18  # points below dense that the figure shows
CELL = ("method", "alpha", "density", "seed")
FIELDS = (*CELL, "accuracy", "accuracy_union", "MB_up", "MB_down", "flops")


def listed(values: Sequence[object]) -> str:
    return ",".join(map(str, values))


def run(out: Path, workers: int, seeds: Sequence[int], alphas: Sequence[str]) -> None:
    """Whatever has no line among the results yet, a sweep for each seed, partition and density."""
    for seed, alpha, density in itertools.product(seeds, map(str, alphas), ("1", *map(str, DENSITIES))):
        done = {tuple(row[name] for name in CELL) for row in read(RESULTS)}
        methods = ("dense",) if density == "1" else METHODS
        missing = [method for method in methods if (method, alpha, density, str(seed)) not in done]
        if missing:
            axes = [f"seed={seed}", f"alpha={alpha}", f"scheduler={listed(missing)}"]
            axes += [f"density={density}"] if density != "1" else []
            folder = out / f"seed={seed},alpha={alpha},density={density}"
            sweep([*axes, *COMMON], folder, workers)
            collect(out)


def sweep(settings: Sequence[str], folder: Path, workers: int = 1) -> None:
    command = [sys.executable, "-m", "flash_pl", "sweep", "pdst", *settings]
    subprocess.run([*command, "--out", str(folder), "--workers", str(workers)], check=False)  # one may diverge


def time(out: Path, seeds: Sequence[int]) -> None:
    """All methods in turn, once a seed."""
    axes = [f"seed={listed(seeds)}", f"scheduler={listed(('dense', *METHODS))}", "density=0.05"]
    sweep([*axes, "data=fashion_mnist", "rounds=6", "trainer.accelerator=cpu", "trainer.eval_every=6"], out / "time")


def collect(out: Path) -> None:
    """A line for each run that has ended; runs of elsewhere keep theirs."""
    found = {tuple(row[name] for name in CELL): row for row in read(RESULTS)}
    for result in sorted(out.glob("*/*/result.json")):
        if result.parents[1].name == "time":
            continue
        end, cell = rows(result.parent)[-1], cell_of(result.parent)
        found[cell] = dict(zip(CELL, cell, strict=True)) | {
            "accuracy": f"{last_five(result.parent, 'val_acc'):.3f}",
            "accuracy_union": f"{last_five(result.parent, 'val_acc_union'):.3f}",
            "MB_up": f"{float(end['bytes_up_total']) / 1e6:.3f}",
            "MB_down": f"{float(end['bytes_down_total']) / 1e6:.3f}",
            "flops": f"{float(end['flops_total']):.6g}",
        }
    for log in sorted(out.glob("seed=*/*.log")):
        if not (log.with_suffix("") / "result.json").exists() and has_diverged(log.read_text()):
            cell = cell_of(log.with_suffix(""))
            found[cell] = dict.fromkeys(FIELDS, "") | dict(zip(CELL, cell, strict=True)) | {"accuracy": DIVERGED}
    write(RESULTS, [found[cell] for cell in sorted(found)])
    timed = defaultdict(list)
    for result in sorted(out.glob("time/*/result.json")):
        method = json.loads(result.read_text())["method"]
        timed[method] += [float(row["seconds_train"]) for row in rows(result.parent)[1:]]
    if timed:
        medians = {name: statistics.median(times) for name, times in timed.items()}
        write(SECONDS, [{"method": name, "seconds": f"{seconds:.2f}"} for name, seconds in medians.items()])


def cell_of(run: Path) -> tuple[str, ...]:
    """What a run's directory is a run of."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    density = 1 if config["method"] == "dense" else config["density"]
    return config["method"], f"{config['alpha']:g}", f"{density:g}", str(config["seed"])


def cells() -> dict[tuple[str, str, str], list[Row]]:
    """The runs of (method, alpha, density), one a seed."""
    found = defaultdict(list)
    for row in read(RESULTS):
        found[row["method"], row["alpha"], row["density"]].append(row)
    return found


def table() -> None:
    """Accuracy of everything, and above that of PDST; then what each method costs at d = 0.05."""
    found = cells()
    head = f"| method | {' | '.join(f'd = {d}' for d in DENSITIES)} |\n|---|{len(DENSITIES) * '---|'}"
    for alpha in map(str, ALPHAS):
        print(f"\nalpha = {alpha}, dense {accuracy(found['dense', alpha, '1'])}\n\n{head}")
        for method in METHODS:
            print(f"| {method} | {' | '.join(accuracy(found[method, alpha, str(d)]) for d in DENSITIES)} |")
        print(f"\nalpha = {alpha}, above pdst of the same seed\n\n{head}")
        for method in METHODS[1:]:
            runs = ((found[method, alpha, str(d)], found["pdst", alpha, str(d)]) for d in DENSITIES)
            print(f"| {method} | {' | '.join(difference(*pair) for pair in runs)} |")
    print("\n| method | MB up | MB down | FLOPs, dense = 1 | s a round |\n|---|---|---|---|---|")
    dense = found["dense", "1", "1"]
    seconds = {row["method"]: row["seconds"] for row in read(SECONDS)}
    for method, density in (("dense", "1"), *((method, "0.05") for method in METHODS)):
        runs = whole(found[method, "1", density])
        if runs:
            work = mean(runs, "flops") / mean(dense, "flops")
            numbers = f"{mean(runs, 'MB_up'):.1f} | {mean(runs, 'MB_down'):.1f} | {work:.2f}"
            print(f"| {method} | {numbers} | {seconds.get(method, '-')} |")


def plot(to: Path) -> None:
    """Accuracy against density, a picture for each partition; without the cells in which a run has diverged."""
    found = cells()
    figure, axes = plotting.new_figure(len(ALPHAS), across=2, height=4.2)
    for panel, alpha in zip(axes, map(str, ALPHAS), strict=True):
        for index, method in enumerate(METHODS):
            cells_of = [found[method, alpha, str(d)] for d in sorted(DENSITIES)]
            heights = [mean(runs, "accuracy") if runs and runs == whole(runs) else math.nan for runs in cells_of]
            panel.plot(sorted(DENSITIES), heights, **plotting.line_style(index), marker=".", label=method)
        panel.axhline(mean(found["dense", alpha, "1"], "accuracy"), color="0.6", linestyle=":", label="dense")
        panel.set(xlabel="density", ylabel="accuracy, %", title=f"Dirichlet alpha = {alpha}")
        panel.set_ylim(bottom=max(panel.get_ylim()[0], mean(found["dense", alpha, "1"], "accuracy") - FRAME))
        plotting.set_log_scale(panel.xaxis)
    plotting.legend_below(figure, axes)
    write_atomically(to, plotting.as_png(figure))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "time", "collect", "table", "plot"])
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--alphas", nargs="+", default=ALPHAS)
    parser.add_argument("--to", type=Path, default=Path("docs/methods.png"))
    chosen = parser.parse_args()
    if chosen.task == "run":
        run(chosen.out, chosen.workers, chosen.seeds, chosen.alphas)
    elif chosen.task == "time":
        time(chosen.out, chosen.seeds)
    elif chosen.task == "collect":
        collect(chosen.out)
    elif chosen.task == "table":
        table()
    else:
        plot(chosen.to)
