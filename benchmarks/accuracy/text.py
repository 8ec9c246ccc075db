"""Loss and next-character accuracy on real text: dense training, SPDST, JMWST and STEAD on the King James Bible.

    python benchmarks/accuracy/text.py run --seeds 1 2  # what results/text.csv lacks of 12 trainings for each seed
    python benchmarks/accuracy/text.py run --model char_lstm --seeds 1
    python benchmarks/accuracy/text.py digest           # results/text.csv, text_curves.csv and text_layers.csv
    python benchmarks/accuracy/text.py table            # the Markdown tables of docs/howto/text.md

The clients are the 66 books, read up to 20,000 characters so that a run takes about 3 minutes of one core: 21 to 281
windows of 64 characters. Five clients a round, one local epoch in batches of 8, 30 rounds, Adam at 0.003 as the data
set has it. Stage 1 of SPDST and JMWST has three epochs; STEAD has the server momentum and the mean over rounds of its
config. Loss, accuracy and bytes are those of the last round; the loss is in nats per character; ``digest`` computes it
by the place in the window too, from the last checkpoints.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from study import RESULTS, Row, mean, mean_and_deviation, read_metrics, read_table, write_table

from flash_pl.config import build_data, compose
from flash_pl.export import SavedRun, build_network

SHORT = "scheduler.sensitivity.epochs=3"  # stage 1
AVERAGED = "server_optimizer=momentum server_optimizer.momentum=0.5 round_average=polynomial"  # as STEAD has them
METHODS = {  # what follows ``flash-pl fit``
    "dense": "dense",
    "dense_averaged": f"dense {AVERAGED}",
    "spdst": f"spdst {SHORT}",
    "spdst_averaged": f"spdst {SHORT} {AVERAGED}",
    "jmwst": f"jmwst {SHORT}",
    "jmwst_averaged": f"jmwst {SHORT} {AVERAGED}",
    "stead": "stead",
}
DENSE = ("dense", "dense_averaged")
CELLS = [(name, "1") for name in DENSE]
CELLS += [(name, density) for density in ("0.2", "0.05") for name in METHODS if name not in DENSE]
COMMON = ["data=king_james", "data.max_characters=20000", "rounds=30", "cohort=5", "batch_size=8"]
COMMON += ["trainer.eval_every=5", "trainer.eval_clients_every=0", "trainer.checkpoint_every=0"]
COMMON += ["trainer.accelerator=cpu", "trainer.threads=1", "trainer.progress=false"]
DIGEST, CURVES, LAYERS = (RESULTS / f"{name}.csv" for name in ("text", "text_curves", "text_layers"))
PLACES = {"1": slice(0, 1), "2-4": slice(1, 4), "5-16": slice(4, 16), "17-64": slice(16, 64)}  # in a window, from 1
KEY = ("model", "method", "density", "seed")  # the columns that name a run, and in this order its folder


def run(out: Path, model: str, seeds: Sequence[int]) -> None:
    """Train the runs that neither the digest nor ``out`` has, one after the other."""
    digested = {tuple(row[column] for column in KEY) for row in read_table(DIGEST)}
    for seed in seeds:
        for method, density in CELLS:
            folder = out / f"{model}-{method}-d{density}-s{seed}"
            if (model, method, density, str(seed)) in digested or (folder / "result.json").exists():
                continue
            settings = [*COMMON, f"model={model}", f"seed={seed}", f"run_dir={folder}", "ckpt_path=last"]
            settings += [] if method in DENSE else [f"density={density}"]
            command = [sys.executable, "-m", "flash_pl", "fit", *METHODS[method].split(), *settings]
            subprocess.run(command, check=True)


def digest(out: Path) -> None:
    """Write one row per finished run, one per evaluated round, and one per layer."""
    tables: dict[Path, dict[tuple[str, ...], Row]] = {}
    for path, key in ((DIGEST, KEY), (CURVES, (*KEY, "round")), (LAYERS, (*KEY, "layer"))):
        tables[path] = {tuple(row[column] for column in key): row for row in read_table(path)}
    for result in sorted(out.glob("*/result.json")):
        summary, metrics = json.loads(result.read_text()), read_metrics(result.parent)
        model, method, density, seed = result.parent.name.split("-")
        values = (model, method, density.removeprefix("d"), seed.removeprefix("s"))
        key, last, clients = dict(zip(KEY, values, strict=True)), metrics[-1], summary["accuracy_clients"]
        tables[DIGEST][values] = key | {
            "rounds": summary["rounds"],
            "loss": f"{summary['loss']:.6f}",
            **{f"loss_{places}": f"{value:.6f}" for places, value in losses_by_place(result.parent).items()},
            "accuracy": f"{100 * summary['accuracy']:.4f}",
            "accuracy_clients_lowest": f"{100 * clients['lowest_tenth']:.4f}",
            "accuracy_clients_highest": f"{100 * clients['highest_tenth']:.4f}",
            "MB_up": f"{float(last['bytes_up_total']) / 1e6:.6f}",
            "MB_down": f"{float(last['bytes_down_total']) / 1e6:.6f}",
            "flops": f"{float(last['flops_total']):.6e}",
            "seconds": f"{summary['seconds']:.0f}",
        }
        for row in metrics:
            if row["val_loss"]:
                curve = {"round": row["round"], "loss": f"{float(row['val_loss']):.6f}"}
                tables[CURVES][(*values, row["round"])] = key | curve
        for layer, share in summary["layer_density"].items():
            tables[LAYERS][(*values, layer)] = key | {"layer": layer, "layer_density": f"{share:.6f}"}
    for path, rows in tables.items():
        write_table(path, [rows[key] for key in sorted(rows)])
    print(f"{DIGEST}: {len(tables[DIGEST])} runs")


@torch.no_grad()
def losses_by_place(run: Path) -> dict[str, float]:
    """Mean test loss of the characters at the places ``PLACES`` of a window."""
    saved = SavedRun(run / "checkpoints" / "last.ckpt")
    network, _ = build_network(saved, saved.model(), samples=1)
    data = build_data(compose(saved.config))
    data.setup("fit")
    losses = [
        torch.nn.functional.cross_entropy(network.eval()(inputs).transpose(1, 2), labels, reduction="none")
        for inputs, labels in data.val_dataloader()
    ]
    return {name: float(torch.cat(losses)[:, places].mean()) for name, places in PLACES.items()}


def runs_by_cell(table: Path) -> dict[tuple[str, str, str], list[Row]]:
    """The rows of (model, method, density)."""
    cells = defaultdict(list)
    for row in read_table(table):
        cells[row["model"], row["method"], row["density"]].append(row)
    return cells


def table() -> None:
    """Print losses, accuracies and bytes, and the mean density of each kind of layer."""
    cells, layers = runs_by_cell(DIGEST), runs_by_cell(LAYERS)
    models = sorted({model for model, _, _ in cells}, reverse=True)
    print("| model | method | d | seeds | loss | accuracy, % | lowest / highest tenth of the books, % | MB up / down |")
    print("|---|---|---|---|---|---|---|---|")
    for model in models:
        for method, density in CELLS:
            if runs := cells[model, method, density]:
                tenths = " / ".join(f"{mean(runs, f'accuracy_clients_{end}'):.1f}" for end in ("lowest", "highest"))
                sent = " / ".join(f"{mean(runs, f'MB_{way}'):.1f}" for way in ("up", "down"))
                accuracy = mean_and_deviation([float(run["accuracy"]) for run in runs])
                cell = [model, name_of(method), density, str(len(runs)), loss(runs), accuracy, tenths, sent]
                print(f"| {' | '.join(cell)} |")
    print(f"\n| model | method | d | {' | '.join(f'character {places}' for places in PLACES)} |")
    print("|" + "---|" * (3 + len(PLACES)))
    for model in models:
        for method, density in CELLS:
            if runs := cells[model, method, density]:
                losses = [f"{mean(runs, f'loss_{places}'):.2f}" for places in PLACES]
                print(f"| {' | '.join([model, name_of(method), density, *losses])} |")
    for model in models:
        columns = [cell for cell in CELLS if cell[0] not in DENSE and layers[(model, *cell)]]
        print(f"\n| layers of {model} | {' | '.join(f'{name_of(name)}, d = {d}' for name, d in columns)} |")
        print("|" + "---|" * (1 + len(columns)))
        for kind in dict.fromkeys(kind_of(row["layer"]) for cell in columns for row in layers[(model, *cell)]):
            shares = [
                statistics.fmean(
                    float(row["layer_density"]) for row in layers[(model, *cell)] if kind_of(row["layer"]) == kind
                )
                for cell in columns
            ]
            print(f"| {kind} | {' | '.join(f'{share:.3f}' for share in shares)} |")


def loss(runs: Sequence[Row]) -> str:
    """Mean and sample standard deviation with three digits."""
    values = [float(run["loss"]) for run in runs]
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def name_of(method: str) -> str:
    name, _, averaged = method.partition("_")
    name = name if name == "dense" else name.upper()
    return f"{name}, averaged" if averaged else name


def kind_of(layer: str) -> str:
    """The name of a layer without its block."""
    return layer.rpartition(".")[2]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "digest", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/text"), help="folder of the runs")
    parser.add_argument("--model", choices=["char_transformer", "char_lstm"], default="char_transformer")
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    arguments = parser.parse_args()
    if arguments.task == "run":
        run(arguments.out, arguments.model, arguments.seeds)
    elif arguments.task == "digest":
        digest(arguments.out)
    else:
        table()
