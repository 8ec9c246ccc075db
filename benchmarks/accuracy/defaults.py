"""Are learning rate, momentum and average of the shipped configs a good first run? Held-out accuracy on the digits.

    python benchmarks/accuracy/defaults.py run --workers 2    # 36 trainings of 10 to 40 seconds
    python benchmarks/accuracy/defaults.py digest             # results/defaults.csv
    python benchmarks/accuracy/defaults.py table              # the Markdown table of docs/choosing.md

Every training is that of ``flash-pl fit METHOD`` (digits, d = 0.05, 20 clients, 5 a round, 40 rounds) with another
learning rate or another way of the server to average, and with a fifth of every client's images held out: the accuracy
is that on held-out images, mean of the last five rounds. Seeds 11 and 12, which no other study of the digits reports.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from study import (
    DIVERGED,
    RESULTS,
    MayDiverge,
    Row,
    accuracy,
    last_five,
    read_metrics,
    read_table,
    run_all,
    write_table,
)

METHODS, RATES, SEEDS = ("dense", "jmwst"), ("0.03", "0.1", "0.3"), ("11", "12")
MEAN = "round_average=polynomial"
SERVERS = {  # how the server averages: settings of ``flash-pl fit``
    "plain average": "",
    "mean over rounds, momentum 0.5": f"{MEAN} server_optimizer=momentum server_optimizer.momentum=0.5",
    "mean over rounds, momentum 0.9": f"{MEAN} server_optimizer=momentum server_optimizer.momentum=0.9",
}
DIGEST = RESULTS / "defaults.csv"


@dataclass(frozen=True)
class Cell(MayDiverge):
    """One training."""

    method: str
    server: str
    lr: str
    seed: str

    def directory(self, out: Path) -> Path:
        server = self.server.replace(", ", "-").replace(" ", "_")
        return out / f"{self.method}-{server}-lr{self.lr}-s{self.seed}"

    def command(self, out: Path) -> list[str]:
        settings = [f"lr={self.lr}", f"seed={self.seed}", *SERVERS[self.server].split(), "data.validation=0.2"]
        settings += [f"run_dir={self.directory(out)}", "ckpt_path=last", "trainer.checkpoint_every=0"]
        settings += ["trainer.eval_every=10", "trainer.eval_last=5", "trainer.threads=1", "trainer.accelerator=cpu"]
        return [sys.executable, "-m", "flash_pl", "fit", self.method, *settings, "trainer.progress=false"]


CELLS = [Cell(*values) for values in product(METHODS, SERVERS, RATES, SEEDS)]


def digest(out: Path) -> None:
    """Write one row per ended training."""
    rows = []
    for cell in CELLS:
        if cell.finished(out):
            row = {"method": cell.method, "server": cell.server, "lr": cell.lr, "seed": cell.seed}
            reached = DIVERGED if cell.diverged(out) else last_five(read_metrics(cell.directory(out)), "val_acc", 3)
            rows.append(row | {"accuracy": reached})
    write_table(DIGEST, rows)
    print(f"{DIGEST}: {len(rows)} runs")


def table() -> None:
    """Print a row for each method and server, a column for each learning rate."""
    runs: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in read_table(DIGEST):
        runs[row["method"], row["server"], row["lr"]].append(row)
    print(f"| method | server | {' | '.join(f'lr = {lr}' for lr in RATES)} |\n|---|---|{'---|' * len(RATES)}")
    for method, server in product(METHODS, SERVERS):
        cells = [accuracy(runs[method, server, lr]) for lr in RATES]
        print(f"| {method if method == 'dense' else method.upper()} | {server} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "digest", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/defaults"), help="folder of the run directories")
    parser.add_argument("--workers", type=int, default=2, help="trainings at the same time")
    arguments = parser.parse_args()
    if arguments.task == "run":
        run_all(CELLS, arguments.out, arguments.workers)
    elif arguments.task == "digest":
        digest(arguments.out)
    else:
        table()
