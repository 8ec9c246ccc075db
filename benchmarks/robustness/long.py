"""Does the work of a round grow with the rounds that are done? A long run of a tiny model.

    python benchmarks/robustness/long.py --out runs/long    # a Markdown table

``flash-pl fit`` trains JMWST, two clients a round, with all of its callbacks: metrics.csv, consensus.csv, TensorBoard,
a checkpoint every 100 rounds. "bookkeeping" is the time between the end of a round's evaluation and the start of the
next round, in which only callbacks work; "round" is training and evaluation. Both are medians over the last rounds
before the one in the first column; the mean of bookkeeping has checkpoints and figures in it. Then the resident memory
of the process, and the files of the run directory.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median

from flash_pl.callbacks import Callback
from flash_pl.cli import main as flash_pl
from flash_pl.loops import FederatedLoop

WINDOW = 100  # rounds of a median
RUN = ["data=synthetic", "data.samples=80", "data.test_samples=20", "data.classes=4", "data.shape=[1, 8, 8]"]
RUN += [
    "data.partition=iid",
    "model=leaf_cnn",
    "model.channels=[2, 4]",
    "model.hidden=8",
    "clients=10",
    "cohort=2",
    "density=0.2",
    "batch_size=8",
]
RUN += ["scheduler.sensitivity.epochs=1", "trainer.eval_every=10", "trainer.checkpoint_every=100"]
RUN += ["trainer.accelerator=cpu", "trainer.progress=false", "trainer.enable_model_summary=false"]


class Watch(Callback):
    """Prints a line of the table after each of the rounds ``marks``."""

    marks: tuple[int, ...] = ()
    folder = Path()

    def __init__(self) -> None:
        self.last = 0.0
        self.bookkeeping: list[float] = []
        self.rounds: list[float] = []

    def on_round_end(self, loop: FederatedLoop, row: Mapping[str, float]) -> None:
        # From this hook to the same hook one round later every callback works once.
        now = time.perf_counter()
        if self.last:
            self.bookkeeping = [*self.bookkeeping, now - self.last - row["seconds"]][-WINDOW:]
            self.rounds = [*self.rounds, row["seconds"]][-WINDOW:]
        self.last = now
        if loop.round in self.marks:
            files = [path.stat().st_size for path in self.folder.rglob("*") if path.is_file()]
            cells = [f"{loop.round}", *(f"{1e3 * value:.2f}" for value in (median(self.bookkeeping),))]
            cells += [f"{1e3 * fmean(self.bookkeeping):.2f}", f"{1e3 * median(self.rounds):.2f}"]
            cells += [f"{resident() / 2**20:.0f}", f"{len(files)}", f"{sum(files) / 2**20:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
            self.last = time.perf_counter()


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("runs/long"), help="the run directory")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    Watch.marks, Watch.folder = (10, options.rounds // 5, options.rounds), options.out
    print("| round | bookkeeping, ms | its mean, ms | round, ms | memory, MiB | files | MiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    return flash_pl(
        ["fit", "jmwst", *RUN, f"rounds={options.rounds}", f"run_dir={options.out}", "callbacks=[long.Watch]"]
    )


if __name__ == "__main__":
    sys.modules["long"] = sys.modules["__main__"]  # callbacks are named by their module
    sys.exit(main())
