"""Does FLASH hold for a deep network? ResNet-18 on Fashion-MNIST, with batch norm and with group norm.

    python benchmarks/accuracy/deep.py search --workers 2           # the learning rates; results/deep_search.csv
    python benchmarks/accuracy/deep.py run --workers 2              # the cells in the order of their priority
    python benchmarks/accuracy/deep.py run --until 07:30 --norms batch --seeds 1    # some of them; none starts later
    python benchmarks/accuracy/deep.py digest                       # results/deep.csv, deep_curves.csv, deep_layers.csv
    python benchmarks/accuracy/deep.py table                        # Markdown tables: accuracies and costs
    python benchmarks/accuracy/deep.py figure                       # docs/deep_layers.png

The scale is one that two cores can train, and the same for all: images padded to 32x32, 100 clients with 128 images
each, balanced Dirichlet partition, five clients a round, one local epoch, which is four steps in batches of 32; 100
rounds. So a run takes 2,000 steps and sees 12,800 of the 60,000 training images. All else is as in the shipped configs:
plain averaging and a learning rate on its way to 0.001 over 1,000 rounds; for STEAD also server momentum of 0.5 and the
mean over rounds. With four steps NST and JMWST move 6 % of their mask a round, after the third; with 19 it is 12 %.

``search`` trains PDST at d = 0.05 and dense training for a few rounds at every rate of ``RATES``, with an eighth of
every client's images held out and another seed. A network has the rate whose held-out accuracy, averaged over the two,
is highest, for all methods alike; STEAD is trained at these rates too, but does not count. Runs whose initial weights
are all scaled (``skip_scale_invariant=false``) have a rate of their own, chosen in the same way. Accuracies of ``run``
are those of the server on the first 3,000 test images, mean of the last five rounds.

Both commands skip what is finished or has diverged and go on from the last checkpoint elsewhere. They list their
trainings one by one instead of calling ``flash-pl sweep``, since a sweep takes every combination of its values, has no
order of priority and does not go on in the middle of a run.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from deep_cells import CONFIGS, HELD_OUT, KEY, METHODS, NORMS, SCALE, SEEDS, Cell, cells, chosen_rates, search_cells
from study import DIVERGED, RESULTS, Row, last_five, read_metrics, read_table, run_all, write_table

SEARCH, DIGEST, CURVES, LAYERS = "deep_search.csv", "deep.csv", "deep_curves.csv", "deep_layers.csv"
MISMATCH_ROUNDS = (1, 10, 50, 100)
COLUMNS = ("accuracy", "accuracy_union", *(f"mismatch_{round}" for round in MISMATCH_ROUNDS), "MB_up", "MB_down")
COLUMNS += ("flops", "flops_ratio", "flops_inference_ratio", "seconds", "seconds_train", "peak_memory_mb")


def search(out: Path, results: Path, norms: Sequence[str], scale: Mapping[str, str], **options: Any) -> None:
    """Train what the search lacks, write its table and print the rates."""
    train([cell for cell in search_cells(scale) if cell.norm in norms], out / "search", **options)
    digest_search(out, results)
    rates = chosen_rates(read_table(results / SEARCH))
    print(*(f"{norm}: {rates.get(norm, 'the search is not complete')}" for norm in norms), sep="\n")


def train(chosen: Sequence[Cell], out: Path, workers: int, until: datetime | None) -> None:
    """Train cells. Checkpoints of what is finished are deleted: a run has hundreds of megabytes of them."""

    def clean_up(cell: Cell) -> None:
        if cell.finished(out):
            shutil.rmtree(cell.directory(out) / "checkpoints", ignore_errors=True)

    # The trainings import padded.py.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    run_all(chosen, out, workers, until, clean_up)


def finished(candidates: Iterable[Cell], out: Path) -> Iterator[tuple[Cell, Path | None]]:
    """The cells that have ended with their run directories, None for those that have diverged."""
    for cell in candidates:
        if cell.finished(out):
            yield cell, None if cell.diverged(out) else cell.directory(out)


def digest_search(out: Path, results: Path) -> None:
    """Write one row per ended training of the search; the rows of others stay."""
    table = results / SEARCH
    rows = {key_of(row): row for row in read_table(table)}
    for cell, run in finished(search_cells({}), out / "search"):
        row = dict(zip(KEY, cell.key, strict=True)) | {"accuracy": DIVERGED, "seconds": ""}
        if run is not None:
            row["accuracy"] = last_five(read_metrics(run), "val_acc", digits=3)
            row["seconds"] = f"{json.loads((run / 'result.json').read_text())['seconds']:.0f}"
        rows[cell.key] = row
    write_rows(table, rows)


def digest(out: Path, results: Path) -> None:
    """Write one row per ended run, one per evaluated round, and one per layer; the rows of other runs stay."""
    tables: dict[str, dict[tuple[str, ...], Row]] = {}
    for name, ends in ((DIGEST, ()), (CURVES, ("round",)), (LAYERS, ("layer",))):
        tables[name] = {key_of(row, ends): row for row in read_table(results / name)}
    for cell, run in finished(cells(read_table(results / SEARCH), SEEDS, {}), out / "runs"):
        key = dict(zip(KEY, cell.key, strict=True))
        if run is None:
            tables[DIGEST][cell.key] = key | dict.fromkeys(COLUMNS, "") | {"accuracy": DIVERGED}
            continue
        metrics, summary = read_metrics(run), json.loads((run / "result.json").read_text())
        tables[DIGEST][cell.key] = key | run_columns(metrics, summary)
        for row in metrics:
            if row["val_acc"]:
                tables[CURVES][(*cell.key, row["round"])] = key | {"round": row["round"]} | curve_columns(row)
        for layer, share in summary["layer_density"].items():
            tables[LAYERS][(*cell.key, layer)] = key | {"layer": layer, "layer_density": f"{share:.6f}"}
    for name, rows in tables.items():
        write_rows(results / name, rows)
    print(f"{results / DIGEST}: {len(tables[DIGEST])} runs")


def run_columns(metrics: Sequence[Row], summary: Row) -> Row:
    """The columns of a finished run: totals with stage 1, accuracies in %, FLOPs as shares of dense training."""
    last = metrics[-1]
    dense_flops = sum(float(row["flops"]) / float(row["flops_ratio"]) for row in metrics)
    rounds = [round for round in MISMATCH_ROUNDS if round <= len(metrics)]
    return (
        dict.fromkeys(COLUMNS, "")
        | curve_columns(last)
        | {
            "accuracy": last_five(metrics, "val_acc", digits=3),
            "accuracy_union": last_five(metrics, "val_acc_union", digits=3),
            **{f"mismatch_{round}": f"{float(metrics[round - 1]['mismatch_clients']):.6f}" for round in rounds},
            "flops_ratio": f"{float(last['flops_total']) / dense_flops:.6f}",
            "flops_inference_ratio": f"{float(last['flops_inference_ratio']):.6f}",
            "seconds": f"{summary['seconds']:.0f}",
            "seconds_train": f"{median(float(row['seconds_train']) for row in metrics):.3f}",  # of a round
            "peak_memory_mb": f"{summary['process']['peak_memory_mb']['host']:.0f}",
        }
    )


def curve_columns(row: Row) -> Row:
    """What a round has reached, and what it has cost up to there."""
    return {
        "accuracy": f"{100 * float(row['val_acc']):.3f}",
        "MB_up": f"{float(row['bytes_up_total']) / 1e6:.3f}",
        "MB_down": f"{float(row['bytes_down_total']) / 1e6:.3f}",
        "flops": f"{float(row['flops_total']):.6g}",
    }


def key_of(row: Row, ends: Sequence[str] = ()) -> tuple[str, ...]:
    return tuple(row[column] for column in (*KEY, *ends))


def write_rows(table: Path, rows: Mapping[tuple[str, ...], Row]) -> None:
    if rows:
        write_table(table, [rows[key] for key in sorted(rows)])


def time_of_day(text: str) -> datetime:
    """The next moment at which a clock shows HH:MM."""
    now = datetime.now()
    moment = datetime.combine(now, datetime.strptime(text, "%H:%M").time())
    return moment if moment > now else moment + timedelta(days=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["search", "run", "digest", "table", "figure"])
    parser.add_argument("--out", type=Path, default=Path("runs/deep"), help="folder of the run directories")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--workers", type=int, default=2, help="trainings at the same time")
    parser.add_argument("--until", type=time_of_day, help="HH:MM, after which no further training starts")
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=NORMS)
    parser.add_argument("--alphas", nargs="+", default=["1", "0.1"], help="of the Dirichlet partition")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, "dense", *CONFIGS], help="default: all")
    parser.add_argument("--densities", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", choices=SEEDS, default=["1", "2"])
    parser.add_argument("--to", type=Path, default=Path("docs/deep_layers.png"), help="file of the figure")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="another scale, to try the script")
    arguments = parser.parse_args()
    folders, options = (arguments.out, arguments.results), {"workers": arguments.workers, "until": arguments.until}
    scale = SCALE | (HELD_OUT if arguments.task == "search" else {})
    scale |= dict(pair.split("=", 1) for pair in arguments.set)
    if arguments.task == "search":
        search(*folders, arguments.norms, scale, **options)
    elif arguments.task == "run":
        searched = read_table(arguments.results / SEARCH)
        rates = chosen_rates(searched)
        if missing := [norm for norm in arguments.norms if norm not in rates]:
            print(f"no rate for {', '.join(missing)} yet: run deep.py search first", file=sys.stderr)
        wanted = [
            cell
            for cell in cells(searched, arguments.seeds, scale)
            if cell.norm in arguments.norms
            and cell.alpha in arguments.alphas
            and cell.method in (arguments.methods or [cell.method])
            and cell.density in (arguments.densities or [cell.density])
        ]
        train(wanted, arguments.out / "runs", **options)
        digest(*folders)
    elif arguments.task == "digest":
        digest_search(*folders)
        digest(*folders)
    else:
        from deep_tables import plot_layers, print_tables  # late: the parent of trainings need not hold torch

        if arguments.task == "table":
            print_tables(*(read_table(arguments.results / name) for name in (SEARCH, DIGEST, CURVES)))
        else:
            plot_layers(read_table(arguments.results / LAYERS), arguments.to)
