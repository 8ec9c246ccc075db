"""All shipped schedulers on Fashion-MNIST, at four densities and two partitions: accuracy, bytes, FLOPs, seconds.

    python benchmarks/accuracy/methods.py run --workers 2   # hours; trains the runs that results/methods.csv lacks
    python benchmarks/accuracy/methods.py time              # seconds of a round: one run at a time, quiet machine
    python benchmarks/accuracy/methods.py digest            # results/methods.csv and methods_seconds.csv
    python benchmarks/accuracy/methods.py table             # the Markdown tables of docs/methods.md
    python benchmarks/accuracy/methods.py plot              # docs/methods.png

Every scheduler has its shipped settings: 100 clients, ten a round, one local epoch, 30 rounds.

- Accuracy: of the server's model at density d, mean of the last five rounds; "diverged" for a run whose numbers grew
  without bound.
- Bytes: of all messages of all clients, a first stage included.
- FLOPs: of all training, relative to dense training on the same samples.
- Seconds: of training one round at d = 0.05, median of rounds 2 to 6 of one run per seed; the schedulers take turns.
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
from study import (
    DIVERGED,
    RESULTS,
    Row,
    accuracy,
    difference,
    has_diverged,
    last_five,
    mean,
    read_metrics,
    read_table,
    without_diverged,
    write_table,
)

from flash_pl import plotting
from flash_pl.atomic_write import write_atomically

SCHEDULERS = (
    *("pdst", "spdst", "jmwst", "nst", "set", "rigl", "ssfl", "feddst", "fedrts"),
    *("topk", "zerofl", "sparsyfed", "fiarse", "heterofl", "stead"),
)
ALPHAS, DENSITIES, SEEDS, ROUNDS = (1, 0.1), (0.2, 0.1, 0.05, 0.02), (1, 2, 3), 30
COMMON = ["data=fashion_mnist", f"rounds={ROUNDS}", "trainer.eval_every=10", "trainer.eval_last=5"]
COMMON += ["trainer.accelerator=cpu", "trainer.checkpoint_every=0"]
DIGEST = RESULTS / "methods.csv"
SECONDS = RESULTS / "methods_seconds.csv"
BELOW_DENSE = 18  # points below dense training that the figure shows
KEY = ("scheduler", "alpha", "density", "seed")  # the columns that name a run
COLUMNS = (*KEY, "accuracy", "accuracy_union", "MB_up", "MB_down", "flops")


def comma_separated(values: Sequence[object]) -> str:
    return ",".join(map(str, values))


def run(out: Path, workers: int, seeds: Sequence[int], alphas: Sequence[str]) -> None:
    """Train the runs that the digest lacks, one sweep per seed, partition and density."""
    for seed, alpha, density in itertools.product(seeds, map(str, alphas), ("1", *map(str, DENSITIES))):
        finished = {key_of(row) for row in read_table(DIGEST)}
        schedulers = ("dense",) if density == "1" else SCHEDULERS
        missing = [name for name in schedulers if (name, alpha, density, str(seed)) not in finished]
        if missing:
            settings = [f"seed={seed}", f"alpha={alpha}", f"scheduler={comma_separated(missing)}"]
            settings += [f"density={density}"] if density != "1" else []
            folder = out / f"seed={seed},alpha={alpha},density={density}"
            sweep([*settings, *COMMON], folder, workers)
            digest(out)


def sweep(settings: Sequence[str], folder: Path, workers: int = 1) -> None:
    command = [sys.executable, "-m", "flash_pl", "sweep", "pdst", *settings]
    # No check: a run that diverges makes the sweep end with an error.
    subprocess.run([*command, "--out", str(folder), "--workers", str(workers)], check=False)


def time(out: Path, seeds: Sequence[int]) -> None:
    """Train every scheduler once per seed, in turn, for ``digest`` to read the seconds."""
    settings = [f"seed={comma_separated(seeds)}", f"scheduler={comma_separated(('dense', *SCHEDULERS))}"]
    settings += ["density=0.05", "data=fashion_mnist", "rounds=6", "trainer.accelerator=cpu", "trainer.eval_every=6"]
    sweep(settings, out / "time")


def digest(out: Path) -> None:
    """Write one row per finished or diverged run in ``out``; the rows of other runs stay."""
    rows = {key_of(row): row for row in read_table(DIGEST)}
    for result in sorted(out.glob("*/*/result.json")):
        if result.parents[1].name == "time":
            continue
        metrics, key = read_metrics(result.parent), key_of_directory(result.parent)
        rows[key] = dict(zip(KEY, key, strict=True)) | {
            "accuracy": last_five(metrics, "val_acc", digits=3),
            "accuracy_union": last_five(metrics, "val_acc_union", digits=3),
            "MB_up": f"{float(metrics[-1]['bytes_up_total']) / 1e6:.3f}",
            "MB_down": f"{float(metrics[-1]['bytes_down_total']) / 1e6:.3f}",
            "flops": f"{float(metrics[-1]['flops_total']):.6g}",
        }
    for log in sorted(out.glob("seed=*/*.log")):
        directory = log.with_suffix("")
        if not (directory / "result.json").exists() and has_diverged(log.read_text()):
            key = key_of_directory(directory)
            rows[key] = dict.fromkeys(COLUMNS, "") | dict(zip(KEY, key, strict=True)) | {"accuracy": DIVERGED}
    write_table(DIGEST, [rows[key] for key in sorted(rows)])
    seconds = defaultdict(list)
    for result in sorted(out.glob("time/*/result.json")):
        scheduler = json.loads(result.read_text())["scheduler"]
        seconds[scheduler] += [float(row["seconds_train"]) for row in read_metrics(result.parent)[1:]]
    if seconds:
        medians = {scheduler: statistics.median(times) for scheduler, times in seconds.items()}
        write_table(SECONDS, [{"scheduler": name, "seconds": f"{median:.2f}"} for name, median in medians.items()])


def key_of(row: Row) -> tuple[str, ...]:
    return tuple(row[column] for column in KEY)


def key_of_directory(run: Path) -> tuple[str, ...]:
    """The key of the run in a directory; dense training has density 1."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    scheduler = config["scheduler"]["name"]
    density = 1 if scheduler == "dense" else config["density"]
    return scheduler, f"{config['alpha']:g}", f"{density:g}", str(config["seed"])


def runs_by_cell() -> dict[tuple[str, str, str], list[Row]]:
    """The runs of (scheduler, alpha, density), one per seed."""
    cells = defaultdict(list)
    for row in read_table(DIGEST):
        cells[row["scheduler"], row["alpha"], row["density"]].append(row)
    return cells


def table() -> None:
    """Print accuracies, points above PDST, and what each scheduler costs at d = 0.05."""
    cells = runs_by_cell()
    head = f"| method | {' | '.join(f'd = {d}' for d in DENSITIES)} |\n|---|{len(DENSITIES) * '---|'}"
    for alpha in map(str, ALPHAS):
        print(f"\nalpha = {alpha}, dense {accuracy(cells['dense', alpha, '1'])}\n\n{head}")
        for scheduler in SCHEDULERS:
            print(f"| {scheduler} | {' | '.join(accuracy(cells[scheduler, alpha, str(d)]) for d in DENSITIES)} |")
        print(f"\nalpha = {alpha}, above pdst of the same seed\n\n{head}")
        for scheduler in SCHEDULERS[1:]:
            pairs = ((cells[scheduler, alpha, str(d)], cells["pdst", alpha, str(d)]) for d in DENSITIES)
            print(f"| {scheduler} | {' | '.join(difference(*pair) for pair in pairs)} |")
    print("\n| method | MB up | MB down | FLOPs, dense = 1 | s a round |\n|---|---|---|---|---|")
    dense = cells["dense", "1", "1"]
    seconds = {row["scheduler"]: row["seconds"] for row in read_table(SECONDS)}
    for scheduler, density in (("dense", "1"), *((name, "0.05") for name in SCHEDULERS)):
        runs = without_diverged(cells[scheduler, "1", density])
        if runs:
            flops = mean(runs, "flops") / mean(dense, "flops")
            numbers = f"{mean(runs, 'MB_up'):.1f} | {mean(runs, 'MB_down'):.1f} | {flops:.2f}"
            print(f"| {scheduler} | {numbers} | {seconds.get(scheduler, '-')} |")


def plot(to: Path) -> None:
    """Draw accuracy against density, one panel per partition, without the cells in which a run has diverged."""
    cells = runs_by_cell()
    figure, panels = plotting.new_figure(len(ALPHAS), across=2, height=4.2)
    for axes, alpha in zip(panels, map(str, ALPHAS), strict=True):
        for index, scheduler in enumerate(SCHEDULERS):
            runs_by_density = [cells[scheduler, alpha, str(d)] for d in sorted(DENSITIES)]
            means = [
                mean(runs, "accuracy") if runs and runs == without_diverged(runs) else math.nan
                for runs in runs_by_density
            ]
            axes.plot(sorted(DENSITIES), means, **plotting.line_style(index), marker=".", label=scheduler)
        dense = mean(cells["dense", alpha, "1"], "accuracy")
        axes.axhline(dense, color="0.6", linestyle=":", label="dense")
        axes.set(xlabel="density", ylabel="accuracy, %", title=f"Dirichlet alpha = {alpha}")
        axes.set_ylim(bottom=max(axes.get_ylim()[0], dense - BELOW_DENSE))
        plotting.set_log_scale(axes.xaxis)
    plotting.legend_below(figure, panels)
    write_atomically(to, plotting.as_png(figure))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "time", "digest", "table", "plot"])
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="folder of the sweeps")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--alphas", nargs="+", default=ALPHAS, help="of the Dirichlet partition")
    parser.add_argument("--to", type=Path, default=Path("docs/methods.png"), help="file of the figure")
    arguments = parser.parse_args()
    if arguments.task == "run":
        run(arguments.out, arguments.workers, arguments.seeds, arguments.alphas)
    elif arguments.task == "time":
        time(arguments.out, arguments.seeds)
    elif arguments.task == "digest":
        digest(arguments.out)
    elif arguments.task == "table":
        table()
    else:
        plot(arguments.to)
