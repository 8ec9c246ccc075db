"""Shared by the robustness tests: compares two finished runs bit for bit, except for times."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Columns of metrics.csv and keys of result.json that may differ between equal runs.
TIMES = ("seconds", "seconds_train", "seconds_per_round", "process")
# Parts of a checkpoint that are compared, if it has them.
STATES = ("server", "scheduler", "voter", "server_optimizer", "ledger", "tier_masks", "round", "failed", "best")
STATES += ("state_dict",)


def differences(a: Path, b: Path) -> list[str]:
    """The parts of checkpoint, metrics.csv and result.json in which two run directories differ."""
    different = []
    checkpoints = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (a, b)]
    for name in STATES:
        states = [content[name] if name in content else content["flash_pl"].get(name) for content in checkpoints]
        if not equal(*states):
            different.append(f"checkpoint {name}")
    if metrics_without_times(a) != metrics_without_times(b):
        different.append("metrics.csv")
    results = [json.loads((run / "result.json").read_text()) for run in (a, b)]
    keys = [key for key in results[0] if key not in TIMES]
    return different + [f"result.json {key}" for key in keys if results[0][key] != results[1].get(key)]


def metrics_without_times(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the columns of times."""
    with open(run / "metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def equal(a: Any, b: Any) -> bool:
    """Whether two nested structures of tensors, lists, mappings and values are equal."""
    if isinstance(a, Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)
