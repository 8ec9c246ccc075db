"""What five methods cost on Fashion-MNIST at d = 0.05, and where the theoretical 1 / d goes.

    python benchmarks/costs.py run      # a sweep of 15 trainings, three minutes each on one core
    python benchmarks/costs.py table    # bytes of a client's messages in a round, Markdown

The sweep also writes the comparison, OUT/report.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from flash_pl.compare import Run, read_runs

METHODS = ("dense", "nst", "pdst", "spdst", "jmwst")
SWEEP = [
    f"scheduler={','.join(METHODS)}",
    "seed=1,2,3",
    "data=fashion_mnist",
    "density=0.05",
    "rounds=60",
    "fleet=mixed",
]
SWEEP += ["trainer.eval_every=5", "trainer.eval_last=5", "trainer.accelerator=cpu"]
MASKABLE = 261_000  # weights of conv2 and fc1 of MNISTNet


def parts(run: Run, way: str) -> dict[str, float]:
    """Mean bytes of one client's message in a round: values, the dense rest, mask and header, in all."""
    count = run.metrics["participants"].sum()
    total, values = (run.metrics[name].sum() / count for name in (f"bytes_{way}", f"bytes_{way}_values"))
    assert run.dense_bytes is not None
    rest = run.dense_bytes - 4 * MASKABLE
    return {"values": values, "rest": rest, "mask": total - values - rest, "all": total}


def mean(runs: list[Run], way: str, part: str) -> float:
    return statistics.fmean(parts(run, way)[part] for run in runs)


def convention(runs: list[Run], way: str, name: str) -> float:
    return statistics.fmean(run.metrics[f"bytes_{way}{name}"].sum() / run.metrics["participants"].sum() for run in runs)


def table(out: Path) -> None:
    runs, _ = read_runs([out])
    found = {method: [run for run in runs if run.names["method"] == method] for method in METHODS}
    dense = found["dense"][0].dense_bytes
    assert dense is not None
    print("| method | way | values | the rest | mask and header | payload, B | dense / payload |")
    print("|---|---|---|---|---|---|---|")
    for method, runs in found.items():
        for way in ("up", "down"):
            cells = [f"{mean(runs, way, part):,.0f}" for part in ("values", "rest", "mask", "all")]
            print(f"| {method} | {way} | {' | '.join(cells)} | {dense / mean(runs, way, 'all'):.2f} |")
    print("\n| method | way | measured, B | entropy bound | bitmap | values only | dense / values only |")
    print("|---|---|---|---|---|---|---|")
    for method, runs in found.items():
        for way in ("up", "down"):
            numbers = [convention(runs, way, name) for name in ("", "_entropy", "_bitmap", "_values")]
            cells = [f"{number:,.0f}" for number in numbers]
            print(f"| {method} | {way} | {' | '.join(cells)} | {dense / numbers[-1]:.2f} |")
    once = {method: np.mean([run.metrics["bytes_once"].sum() for run in runs]) for method, runs in found.items()}
    stage = {
        method: np.mean([run.metrics["bytes_down_total"][-1] - run.metrics["bytes_down"].sum() for run in runs])
        for method, runs in found.items()
    }
    print("\n| method | first masks, B in all | stage 1, down, MB |\n|---|---|---|")
    for method in METHODS:
        print(f"| {method} | {once[method]:,.0f} | {stage[method] / 1e6:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/costs"))
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.task == "run":
        command = [sys.executable, "-m", "flash_pl", "sweep", "jmwst", *SWEEP, "--out", str(chosen.out)]
        sys.exit(subprocess.run([*command, "--workers", str(chosen.workers)]).returncode)
    table(chosen.out)
