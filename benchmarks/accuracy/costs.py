"""What FLASH and its baselines cost on Fashion-MNIST at d = 0.05, and where the theoretical factor 1 / d goes.

    python benchmarks/accuracy/costs.py run                 # 15 trainings, about three minutes each on one core
    python benchmarks/accuracy/costs.py run deadline        # 3 trainings of SPDST with a deadline of 5 s
    python benchmarks/accuracy/costs.py digest [deadline]   # results/costs.csv and costs_curves.csv
    python benchmarks/accuracy/costs.py table               # the Markdown tables of docs/costs.md
    python benchmarks/accuracy/costs.py plot                # docs/accuracy_sent.png

``run`` writes run directories to ``--out`` (and the page of ``flash-pl compare`` to OUT/report), ``digest`` summarizes
them, ``table`` and ``plot`` read the digest.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from study import RESULTS, Row, accuracy, last_five, mean, read_metrics, read_table, write_table

from flash_pl import plotting
from flash_pl.atomic_write import write_atomically

SCHEDULERS = ("dense", "nst", "pdst", "spdst", "jmwst")
COMMON = ["seed=1,2,3", "data=fashion_mnist", "density=0.05", "rounds=60", "fleet=mixed"]
COMMON += ["trainer.eval_every=5", "trainer.eval_last=5", "trainer.accelerator=cpu"]
SWEEPS = {  # study -> arguments of ``flash-pl sweep``
    "costs": ["jmwst", f"scheduler={','.join(SCHEDULERS)}", *COMMON],
    "deadline": ["spdst", *COMMON, "fleet.deadline=5"],
}
DIGEST = RESULTS / "costs.csv"
CURVES = RESULTS / "costs_curves.csv"
MASKABLE = 261_000  # weights of conv2 and fc1 of MNISTNet
COUNTS = ("", "_entropy", "_bitmap", "_values")  # endings of the columns of bytes, see docs/costs.md
WAYS = ("up", "down")


def digest(study: str, out: Path) -> None:
    """Summarize the run directories of a study: one row per run, and the curves that ``plot`` draws."""
    rows = [row for row in read_table(DIGEST) if row["study"] != study]
    curves = []
    for result in sorted(out.glob("*/result.json")):
        metrics, summary = read_metrics(result.parent), json.loads(result.read_text())
        rows.append(digest_row(study, metrics, summary))
        curves += [
            {
                "scheduler": summary["scheduler"],
                "seed": summary["seed"],
                "round": row["round"],
                "bytes_up_total": row["bytes_up_total"],
                "accuracy": f"{100 * float(row['val_acc']):.8f}",
            }
            for row in metrics
            if row["val_acc"]
        ]
    write_table(DIGEST, rows)
    if study == "costs":
        write_table(CURVES, curves)
    print(f"{DIGEST}: {len(rows)} runs")


def digest_row(study: str, metrics: Sequence[Row], summary: Row) -> Row:
    """Accuracy in %, bytes, FLOPs and seconds of a run: sums over its rounds, stage 1 included where it says total."""

    def total(column: str) -> float:
        return sum(float(row.get(column) or 0) for row in metrics)

    dense_flops = sum(float(row["flops"]) / float(row["flops_ratio"]) for row in metrics)
    return {
        "study": study,
        "scheduler": summary["scheduler"],
        "seed": summary["seed"],
        "accuracy": last_five(metrics, "val_acc"),
        "messages": f"{total('participants'):.0f}",
        "late": f"{total('late'):.0f}",
        "bytes_dense": summary["cost"]["bytes_dense"],
        **{f"bytes_{way}{count}": f"{total(f'bytes_{way}{count}'):.0f}" for way in WAYS for count in COUNTS},
        "bytes_once": f"{total('bytes_once'):.0f}",
        "bytes_up_total": metrics[-1]["bytes_up_total"],
        "bytes_down_total": metrics[-1]["bytes_down_total"],
        "flops_ratio": f"{float(metrics[-1]['flops_total']) / dense_flops:.6f}",
        "flops_inference_ratio": f"{float(metrics[-1]['flops_inference_ratio']):.6f}",
        "fleet_seconds_total": f"{float(metrics[-1]['fleet_seconds_total']):.3f}",
        "seconds_train": f"{statistics.median(float(row['seconds_train']) for row in metrics):.3f}",  # of a round
    }


def runs_by_scheduler(study: str) -> dict[str, list[Row]]:
    runs = defaultdict(list)
    for row in read_table(DIGEST):
        if row["study"] == study:
            runs[row["scheduler"]].append(row)
    return {scheduler: runs[scheduler] for scheduler in SCHEDULERS if scheduler in runs}


def per_message(runs: Sequence[Row], column: str) -> float:
    """Mean over runs of the bytes of one client's message in a round."""
    return statistics.fmean(float(run[column]) / int(run["messages"]) for run in runs)


def name_of(scheduler: str) -> str:
    return "dense" if scheduler == "dense" else scheduler.upper()


def table() -> None:
    costs = runs_by_scheduler("costs")
    for lines in (summary(costs), parts(costs), conventions(costs), first_messages(costs), deadlines(costs)):
        print("\n".join(lines), end="\n\n")


def summary(costs: dict[str, list[Row]]) -> Iterator[str]:
    """Accuracy, and costs of all clients together."""
    yield (
        "| method | accuracy, % | up, MB | down, MB | a client and round, up / down, kB | bytes, dense / sparse "
        "| training FLOPs against dense | inference FLOPs against dense | fleet time, h |"
    )
    yield "|" + 9 * "---|"
    for scheduler, runs in costs.items():
        up, down = (f"{mean(runs, f'bytes_{way}_total') / 1e6:#.3g}".rstrip(".") for way in WAYS)
        each = [per_message(runs, f"bytes_{way}") / 1e3 for way in WAYS]
        kilobytes = " / ".join(f"{number:.0f}" if number > 1000 else f"{number:.1f}" for number in each)
        bytes_factor = 1 / statistics.fmean(map(bytes_ratio, runs))
        numbers = [
            f"{bytes_factor:.1f}",
            *(f"{mean(runs, name):.2f}" for name in ("flops_ratio", "flops_inference_ratio")),
        ]
        numbers = ["1" if float(number) == 1 else number for number in numbers]
        hours = f"{mean(runs, 'fleet_seconds_total') / 3600:.2f}"
        yield f"| {' | '.join((name_of(scheduler), accuracy(runs), up, down, kilobytes, *numbers, hours))} |"


def bytes_ratio(run: Row) -> float:
    """All bytes of a run, stage 1 included, against those of dense messages in its rounds."""
    sent = int(run["bytes_up_total"]) + int(run["bytes_down_total"])
    return sent / (2 * int(run["messages"]) * int(run["bytes_dense"]))


def parts(costs: dict[str, list[Row]]) -> Iterator[str]:
    """Parts of one client's message."""
    dense = int(costs["dense"][0]["bytes_dense"])
    rest = dense - 4 * MASKABLE
    yield "| method | way | values | the rest | mask and header | payload, B | dense / payload |"
    yield "|" + 7 * "---|"
    for scheduler, runs in costs.items():
        for way in WAYS:
            payload, values = per_message(runs, f"bytes_{way}"), per_message(runs, f"bytes_{way}_values")
            cells = [f"{number:,.0f}" for number in (values, rest, payload - values - rest, payload)]
            yield f"| {name_of(scheduler)} | {way} | {' | '.join(cells)} | {dense / payload:.2f} |"


def conventions(costs: dict[str, list[Row]]) -> Iterator[str]:
    """One client's message as different papers count it."""
    dense = int(costs["dense"][0]["bytes_dense"])
    yield "| method | way | measured, B | entropy bound | bitmap | values only | dense / values only |"
    yield "|" + 7 * "---|"
    for scheduler, runs in costs.items():
        for way in WAYS:
            numbers = [per_message(runs, f"bytes_{way}{count}") for count in COUNTS]
            cells = [f"{number:,.0f}" for number in numbers]
            yield f"| {name_of(scheduler)} | {way} | {' | '.join(cells)} | {dense / numbers[-1]:.2f} |"


def first_messages(costs: dict[str, list[Row]]) -> Iterator[str]:
    """Bytes that are sent only once: the clients' first masks, and the models of stage 1."""
    yield "| method | first masks, B in all | stage 1, down, MB |"
    yield "|" + 3 * "---|"
    for scheduler, runs in costs.items():
        first_stage = mean(runs, "bytes_down_total") - mean(runs, "bytes_down")
        yield f"| {name_of(scheduler)} | {mean(runs, 'bytes_once'):,.0f} | {first_stage / 1e6:.2f} |"


def deadlines(costs: dict[str, list[Row]]) -> Iterator[str]:
    """SPDST without and with a deadline."""
    yield "| deadline of SPDST | accuracy, % | late reports by seed, % | fleet time, min |"
    yield "|" + 4 * "---|"
    for name, runs in (("none", costs["spdst"]), ("5 s", runs_by_scheduler("deadline")["spdst"])):
        late = [100 * int(run["late"]) / (int(run["late"]) + int(run["messages"])) for run in runs]
        minutes = mean(runs, "fleet_seconds_total") / 60
        yield f"| {name} | {accuracy(runs)} | {', '.join(f'{share:.0f}' for share in late)} | {minutes:.1f} |"


def plot(to: Path) -> None:
    """Draw accuracy against the megabytes that all clients have sent: means over seeds, bands of a deviation."""
    points = read_table(CURVES)
    with matplotlib.rc_context(plotting.SETTINGS):
        figure, (axes,) = plotting.new_figure(1, across=1)
        for index, scheduler in enumerate(SCHEDULERS):
            by_round = defaultdict(list)
            for point in points:
                if point["scheduler"] == scheduler:
                    by_round[point["round"]].append((int(point["bytes_up_total"]) / 1e6, float(point["accuracy"])))
            megabytes, accuracies = np.array(list(by_round.values())).transpose(2, 0, 1)  # each [rounds, seeds]
            style, deviation = plotting.line_style(index), accuracies.std(1, ddof=1)
            plotting.plot_line(axes, megabytes.mean(1), accuracies.mean(1), deviation, style, scheduler)
        axes.set(xlabel="sent by all clients, MB", ylabel="accuracy, %")
        plotting.set_log_scale(axes.xaxis)
        plotting.legend_below(figure, [axes])
        write_atomically(to, plotting.as_png(figure))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "digest", "table", "plot"])
    parser.add_argument("study", choices=list(SWEEPS), nargs="?", default="costs")
    parser.add_argument("--out", type=Path, help="folder of the run directories; default: runs/STUDY")
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time")
    parser.add_argument("--to", type=Path, default=Path("docs/accuracy_sent.png"), help="file of the figure")
    arguments = parser.parse_args()
    out = arguments.out or Path("runs") / arguments.study
    if arguments.task == "run":
        command = [sys.executable, "-m", "flash_pl", "sweep", *SWEEPS[arguments.study], "--out", str(out)]
        sys.exit(subprocess.run([*command, "--workers", str(arguments.workers)]).returncode)
    elif arguments.task == "digest":
        digest(arguments.study, out)
    elif arguments.task == "table":
        table()
    else:
        plot(arguments.to)
