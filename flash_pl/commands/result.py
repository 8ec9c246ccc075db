"""result.json: what a finished run found, in one small file."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import torch

from flash_pl import __version__
from flash_pl.checkpoint import write_atomically
from flash_pl.client import layer_labels
from flash_pl.config import label
from flash_pl.loops import FederatedLoop
from flash_pl.loops.round_metrics import suffix


def summarize(
    loop: FederatedLoop, config: Mapping[str, Any], seconds: float, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The summary of a finished run.

    ``accuracy`` is that of the model masked to the target density, ``accuracy_union`` that of the model before masking,
    ``cost`` are the bytes sent and the FLOPs of training over the whole run, stage 1 included, the simulated seconds if
    there is a fleet, and ``bytes_dense``, what the dense model takes once.
    ``tiers`` lists those of the models masked to each tier; ``accuracy_clients`` tells how the accuracy on their own
    test samples spreads over the clients, ``accuracy_finetuned`` the same after fine-tuning; ``reports`` are those that
    came ``in_time`` for a round and after its deadline. The last four are there only where a run has them. What the
    module does not log is None.

    Args:
        loop: the finished loop.
        config: the resolved config.
        seconds: wall time of the training, stage 1 and evaluation included; of a run that went on, that of its rounds
            before and of all since.
        rows: the lines of metrics of its rounds; their mean wall time, evaluation included, is ``seconds_per_round``.
    """
    metrics, monitor, server = loop.metrics, config["trainer"]["monitor"], loop.server
    densities = server.layout.densities(server.mask).tolist()
    tiers = loop.plan.budget.tiers if len(loop.plan.budget.tiers) > 1 else ()
    waited = [float(row["seconds"]) for row in rows if row.get("seconds")]
    result = {
        "scheduler": label(config, "scheduler"),
        "data": label(config, "data"),
        "model": label(config, "model"),
        "target_density": config["density"],
        "density": float(server.mask.double().mean()),
        "layer_density": dict(zip(layer_labels(server.layout), densities, strict=True)),
        "accuracy": metrics.get(monitor),
        "accuracy_union": metrics.get(f"{monitor}_union"),
        "loss": metrics.get("val_loss"),
        "rounds": loop.round,
        "clients": loop.data.clients,
        "cohort": config["cohort"],
        "seed": config["seed"],
        "seconds": seconds,
        "seconds_per_round": fmean(waited) if waited else None,
        "cost": loop.ledger.totals | {"bytes_dense": 4 * server.layout.elements},
        "mismatch": {kind: metrics.get(f"mismatch_{kind}") for kind in ("clients", "server", "temporal")},
        "versions": {
            "flash_pl": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": L.__version__,
        },
    }
    if tiers:
        found = [{"density": t.density, "accuracy": metrics.get(monitor + suffix(t.density))} for t in tiers]
        result["tiers"] = found
    for kind in ("clients", "finetuned"):
        if f"{monitor}_{kind}" in metrics:
            parts = {"mean": "", "lowest_tenth": "_lowest", "highest_tenth": "_highest"}
            result[f"accuracy_{kind}"] = {name: metrics[f"{monitor}_{kind}{end}"] for name, end in parts.items()}
    if "late" in metrics:
        result["reports"] = {"in_time": _total(rows, "participants"), "late": _total(rows, "late")}
    if config["trainer"]["on_client_error"] == "skip":
        result["failed_clients"] = loop.failed
    return result


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write it as JSON, where a number that is not finite becomes null; the file is there whole or not at all."""
    write_atomically(path, (json.dumps(_finite(result), indent=2) + "\n").encode())


def _total(rows: Sequence[Mapping[str, Any]], column: str) -> int:
    """Of counts, which are text where an earlier process has written them."""
    return sum(int(float(row.get(column) or 0)) for row in rows)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
