"""All methods on Fashion-MNIST at four densities and two partitions: accuracy, bytes, FLOPs, seconds.

    python benchmarks/methods.py run --workers 2     # hours; goes on where it was interrupted
    python benchmarks/methods.py table               # Markdown
    python benchmarks/methods.py plot                # docs/methods.png

Every method has its shipped settings; 100 clients, ten a round, one local epoch. Accuracy is that of the server at
density d, the mean of the last five rounds. The sweeps go seed by seed, so that an unfinished one has whole seeds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

METHODS = (
    "nst",
    "pdst",
    "spdst",
    "jmwst",
    "topk",
    "zerofl",
    "ssfl",
    "feddst",
    "sparsyfed",
    "heterofl",
    "fiarse",
    "fedrts",
)
METHODS += ("rigl", "set")
ALPHAS, DENSITIES, SEEDS, ROUNDS = (1, 0.1), (0.05, 0.02, 0.1, 0.2), (1, 2, 3), 30
COMMON = [
    "data=fashion_mnist",
    f"rounds={ROUNDS}",
    "trainer.eval_every=10",
    "trainer.eval_last=5",
    "trainer.accelerator=cpu",
]
COMMON += ["trainer.checkpoint_every=0"]
RESULTS = Path(__file__).parent / "results" / "methods"
KEPT = ("metrics.csv", "result.json", "config.yaml")


def listed(values: tuple[object, ...]) -> str:
    return ",".join(map(str, values))


def run(out: Path, workers: int) -> None:
    """Dense training, then all others, seed by seed."""
    for seed in SEEDS:
        grid = [f"seed={seed}", f"alpha={listed(ALPHAS)}"]
        for name, axes in (
            ("dense", ["scheduler=dense"]),
            ("sparse", [f"density={listed(DENSITIES)}", f"scheduler={listed(METHODS)}"]),
        ):
            command = [sys.executable, "-m", "flash_pl", "sweep", "pdst", *grid, *axes, *COMMON]
            command += ["--out", str(out / f"{name}-{seed}"), "--workers", str(workers)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "table", "plot"])
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    run(chosen.out, chosen.workers)
