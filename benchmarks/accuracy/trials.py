"""The trials of the search for STEAD, on held-out training samples: the good ones and the bad ones.

    python benchmarks/accuracy/trials.py run --workers 2    # the trials without an accuracy in results/trials.csv
    python benchmarks/accuracy/trials.py table              # the last table of trials.md

A row of trials.csv is a trial: its arguments after ``flash-pl fit``, then its results. A tenth of every client's
training samples is held out (``data.validation``). Accuracies are those of the server on these samples after 15, 30 and
45 rounds; the last one is the mean of rounds 56 to 60. The test set is never read. Seed 11 is for choosing, reports use
other seeds. For a new trial add a row with a name and its arguments; candidates/ holds the schedulers under trial that
are not in the package.
"""

import argparse
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from study import RESULTS, Row, has_diverged, last_five, read_metrics, read_table, write_table

TRIALS = RESULTS / "trials.csv"
COMMON = ["data=fashion_mnist", "data.validation=0.1", "seed=11", "rounds=60", "round_average=polynomial"]
COMMON += ["trainer.eval_every=15", "trainer.eval_last=5", "trainer.accelerator=cpu", "trainer.threads=1"]
COMMON += ["trainer.checkpoint_every=0", "trainer.progress=false"]
CURVE_ROUNDS = (15, 30, 45)


def run(out: Path, workers: int) -> None:
    """Train the trials that have no accuracy, and write their results into the table."""
    trials, lock = read_table(TRIALS), Lock()

    def run_trial(trial: Row) -> None:
        results = train(trial, out / trial["trial"])
        with lock:
            trial |= results
            write_table(TRIALS, trials)
            print(trial["trial"], trial["arguments"], trial["accuracy"], flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run_trial, [trial for trial in trials if not trial["accuracy"]]))


def train(trial: Row, folder: Path) -> Row:
    """Train and return the results; the accuracy of a diverged run is the last line of its error."""
    if not (folder / "result.json").exists():
        config, *settings = shlex.split(trial["arguments"])
        command = [sys.executable, "-m", "flash_pl", "fit", config, *COMMON, *settings]
        command += [f"run_dir={folder}", "ckpt_path=last"]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])  # candidates/
        process = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
        if process.returncode:
            error = process.stderr.strip().rpartition("\n")[2]
            print(trial["trial"], error, flush=True)
            return {"accuracy": error} if has_diverged(error) else {}
    metrics = read_metrics(folder)
    accuracies = {int(row["round"]): row["val_acc"] for row in metrics if row["val_acc"]}
    return {
        **{f"round_{round}": f"{100 * float(accuracies[round]):.2f}" for round in CURVE_ROUNDS},
        "accuracy": last_five(metrics, "val_acc", digits=2),
        "seconds": f"{sum(float(row['seconds_train']) for row in metrics):.0f}",
    }


def table() -> None:
    names = [f"round {round}" for round in CURVE_ROUNDS]
    print(f"| | `flash-pl fit ...` | {' | '.join(names)} | rounds 56 to 60 |\n|---|---|{'---|' * (len(names) + 1)}")
    for trial in read_table(TRIALS):
        numbers = [trial[f"round_{round}"] for round in CURVE_ROUNDS] + [trial["accuracy"]]
        print(f"| {trial['trial']} | `{trial['arguments']}` | {' | '.join(numbers)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/trials"), help="folder of the run directories")
    parser.add_argument("--workers", type=int, default=2, help="trials at the same time")
    arguments = parser.parse_args()
    run(arguments.out, arguments.workers) if arguments.task == "run" else table()
