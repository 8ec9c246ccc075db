"""Trials in the search for a better method, on held-out training samples: the good ones and the bad.

    python benchmarks/trials.py run --workers 2    # what has no accuracy yet in benchmarks/results/trials.csv
    python benchmarks/trials.py table              # Markdown

A line of trials.csv is a trial: its arguments after ``flash-pl fit``, then what came out. A tenth of every client's
training samples is held out (``data.validation``), the accuracies are those of the server on them after so many rounds,
the last one the mean of rounds 56 to 60; the test set is never read. Seed 11 chooses, reports have other seeds. To try
something, add a line with a name and its arguments; candidates that are not in the package are in candidates/.
"""

import argparse
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from study import Row, has_diverged, last_five, read, rows, write

TRIALS = Path(__file__).parent / "results" / "trials.csv"
COMMON = ["data=fashion_mnist", "data.validation=0.1", "seed=11", "rounds=60", "round_average=polynomial"]
COMMON += ["trainer.eval_every=15", "trainer.eval_last=5", "trainer.accelerator=cpu", "trainer.threads=1"]
COMMON += ["trainer.checkpoint_every=0", "trainer.progress=false"]
ON_THE_WAY = (15, 30, 45)


def run(out: Path, workers: int) -> None:
    trials, lock = read(TRIALS), Lock()

    def one(trial: Row) -> None:
        found = outcome(trial, out / trial["trial"])
        with lock:
            trial |= found
            write(TRIALS, trials)
            print(trial["trial"], trial["arguments"], trial["accuracy"], flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, [trial for trial in trials if not trial["accuracy"]]))


def outcome(trial: Row, folder: Path) -> Row:
    """Train and read off; a run that fails has its last line for an accuracy."""
    if not (folder / "result.json").exists():
        method, *settings = shlex.split(trial["arguments"])
        command = [sys.executable, "-m", "flash_pl", "fit", method, *COMMON, *settings]
        command += [f"run_dir={folder}", "ckpt_path=last"]
        here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": here}, capture_output=True, text=True)
        if done.returncode:
            end = done.stderr.strip().rpartition("\n")[2]
            print(trial["trial"], end, flush=True)
            return {"accuracy": end} if has_diverged(end) else {}
    reached = {int(row["round"]): row["val_acc"] for row in rows(folder) if row["val_acc"]}
    seconds = sum(float(row["seconds_train"]) for row in rows(folder))
    return {
        **{f"round_{round}": f"{100 * float(reached[round]):.2f}" for round in ON_THE_WAY},
        "accuracy": f"{last_five(folder, 'val_acc'):.2f}",
        "seconds": f"{seconds:.0f}",
    }


def table() -> None:
    names = [f"round {round}" for round in ON_THE_WAY]
    print(f"| | `flash-pl fit ...` | {' | '.join(names)} | rounds 56 to 60 |\n|---|---|{'---|' * (len(names) + 1)}")
    for trial in read(TRIALS):
        numbers = [trial[f"round_{round}"] for round in ON_THE_WAY] + [trial["accuracy"]]
        print(f"| {trial['trial']} | `{trial['arguments']}` | {' | '.join(numbers)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/trials"))
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    run(chosen.out, chosen.workers) if chosen.task == "run" else table()
