"""Whether two runs found the same, bit for bit, times and places aside."""

import json
from pathlib import Path
from typing import Any

import torch
from study import rows
from torch import Tensor

# What may differ: how long it took, and where and on how many processes.
TIMES = ("seconds", "seconds_train", "seconds_per_round")


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished run directories: checkpoint, metrics.csv, result.json."""
    found = []
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (one, other)]
    for part in ("server", "scheduler", "round", "failed", "best", "state_dict"):
        pair = [state[part] if part in state else state["flash_pl"][part] for state in states]
        if not same(*pair):
            found.append(f"checkpoint {part}")
    tables = [[{k: v for k, v in row.items() if k not in TIMES} for row in rows(run)] for run in (one, other)]
    if tables[0] != tables[1]:
        found.append("metrics.csv")
    results = [json.loads((run / "result.json").read_text()) for run in (one, other)]
    found += [f"result.json {key}" for key in results[0] if key not in TIMES and results[0][key] != results[1].get(key)]
    return found


def same(one: Any, other: Any) -> bool:
    """Equality that looks into tensors, lists and mappings."""
    if isinstance(one, Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
