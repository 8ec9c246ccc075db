"""Do two versions of flash_pl compute the same bits? Trains every shipped configuration with both and compares.

    python benchmarks/robustness/same_bits.py run PYTHON FOLDER    # once with the interpreter of each version
    python benchmarks/robustness/same_bits.py compare OLD NEW      # the two folders

All tensors of the last checkpoint and all columns of metrics.csv except times are compared. ``RENAMED`` maps columns
that the newer version calls differently. Every configuration runs in one and in two processes.
"""

import argparse
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from bits import metrics_without_times

CONFIGS = (
    "dense feddst fedrts fiarse hetero_jmwst hetero_nst hetero_spdst heterofl jmwst nst pdst rigl set sparsyfed spdst "
    "ssfl stead topk zerofl"
).split()
WITH_STAGE_1 = ("spdst", "jmwst", "hetero_jmwst")  # of the configurations on Fashion-MNIST
FASHION_MNIST = ("dense", "pdst", "nst", *WITH_STAGE_1)
DIGITS_SETTINGS = ["rounds=12"]  # FedDST and FedRTS move their masks in rounds 1 and 11
FASHION_SETTINGS = ["data=fashion_mnist", "rounds=3"]
SHORT_STAGE_1 = ["scheduler.sensitivity.epochs=3"]
RENAMED = {"held_by_all": "in_all_masks", "held_by_one": "in_one_mask"}  # old column of metrics.csv -> new column


def jobs() -> list[tuple[str, list[str]]]:
    """Name of the run directory and arguments of ``flash-pl fit`` for every training."""
    trainings = []
    for config, processes in product(CONFIGS, (1, 2)):
        machine = ["trainer.accelerator=cpu", f"trainer.devices={processes}", "trainer.progress=false"]
        settings = {"digits": DIGITS_SETTINGS}
        if config in FASHION_MNIST:
            settings["fashion_mnist"] = FASHION_SETTINGS + (SHORT_STAGE_1 if config in WITH_STAGE_1 else [])
        for data, keys in settings.items():
            trainings.append((f"{config}-{data}-{processes}", [config, *keys, *machine]))
    return trainings


def run(python: str, folder: Path) -> None:
    """Train the jobs that have no result in ``folder`` yet."""
    for name, arguments in jobs():
        if not (folder / name / "result.json").exists():
            command = [python, "-m", "flash_pl", "fit", *arguments, f"run_dir={folder / name}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            print(name, flush=True)


def tensors(state: Any) -> list[torch.Tensor]:
    """All tensors of a checkpoint, in its order."""
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [tensor for part in parts for tensor in tensors(part)]


def metrics(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without times, under the new names of the columns."""
    return [{RENAMED.get(key, key): value for key, value in row.items()} for row in metrics_without_times(run)]


def compare(old: Path, new: Path) -> int:
    """Print every difference and the amounts that were compared; return the number of different runs."""
    different = tensor_count = cell_count = 0
    for name, _ in jobs():
        checkpoints = [folder / name / "checkpoints" / "last.ckpt" for folder in (old, new)]
        old_tensors, new_tensors = (tensors(torch.load(path, weights_only=True)) for path in checkpoints)
        equal = len(old_tensors) == len(new_tensors) and all(
            a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(old_tensors, new_tensors, strict=True)
        )
        old_rows, new_rows = (metrics(folder / name) for folder in (old, new))
        tensor_count, cell_count = tensor_count + len(old_tensors), cell_count + sum(map(len, old_rows))
        if not equal or old_rows != new_rows:
            different += 1
            pairs = zip(old_rows, new_rows, strict=False)
            columns = sorted({key for a, b in pairs for key in a | b if a.get(key) != b.get(key)})
            print(f"{name}: tensors {'equal' if equal else 'DIFFER'}, metrics {columns or 'equal'}")
    amounts = f"{len(jobs())} pairs of runs, {tensor_count} tensors, {cell_count} cells of metrics.csv"
    print(f"{amounts}: {different} pairs differ")
    return different


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "compare"])
    parser.add_argument("first", help="interpreter to run with, or folder of the old version's runs")
    parser.add_argument("folder", type=Path, help="folder to write runs to, or folder of the new version's runs")
    arguments = parser.parse_args()
    if arguments.task == "run":
        run(arguments.first, arguments.folder)
    else:
        sys.exit(compare(Path(arguments.first), arguments.folder) > 0)
