"""result.json, the summary of a finished run."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from flash_pl.atomic_write import write_atomically
from flash_pl.client import layer_labels
from flash_pl.config import label
from flash_pl.errors import RunError
from flash_pl.loops import FederatedLoop, tier_suffix
from flash_pl.machine import host_facts, peak_memory_mb, versions


def summarize(
    loop: FederatedLoop, config: Mapping[str, Any], seconds: float, rows: Sequence[Mapping[str, Any]], command: str
) -> dict[str, Any]:
    """The summary of a finished run.

    - ``weights``: numbers of trainable weights, and of those that a mask can prune; densities are of the latter.
    - ``target_density``: None for dense training, which has no target; ``density_of`` says of what it is a share.
      ``density`` is the server mask's share of weights, ``density_flops`` its share of the maskable layers' dense
      forward FLOPs (None if these cannot be counted).
    - ``accuracy``: the monitored metric of the model under the server's mask.
    - ``accuracy_union``: the same of the model before masking; null with ``round_average``.
    - ``best``: the best value of the monitored metric and the first round that has it; None if it was never logged.
    - ``cost``: bytes sent and FLOPs of training over the whole run, stage 1 included; simulated seconds if there is a
      fleet; ``bytes_dense``, the size of the dense model without its frozen parameters.
    - ``stopped``: why the run ended before its last round, if a callback said so.
    - ``tiers``: the accuracy of the model masked to each tier, if there are several tiers.
    - ``accuracy_clients``: how the accuracy on the clients' own test samples spreads over the clients, if the clients
      are evaluated; ``accuracy_finetuned``: the same after fine-tuning.
    - ``reports``: numbers of reports that came ``in_time`` and ``late``, if there is a deadline.
    - ``failed_clients``: number of clients that failed, if failures are skipped.
    - ``process``: the command line that has ended the run, and of its first process the machine and the peak memory in
      MB. Here, in ``seconds`` and in ``seconds_per_round`` runs with the same bits may differ.

    A metric that the module does not log is None.

    Args:
        loop: the finished loop.
        config: the resolved config.
        seconds: wall time of training, stage 1 and evaluation included. Of a resumed run: the time of the rounds before
            it was resumed, and of everything since.
        rows: the rows of metrics.csv; the mean of their wall times is ``seconds_per_round``, evaluation included.
        command: the command line.
    """
    metrics, monitor, server = loop.metrics, config["trainer"]["monitor"], loop.server
    densities = server.layout.densities(server.mask).tolist()
    tiers = loop.plan.budget.tiers if len(loop.plan.budget.tiers) > 1 else ()
    durations = [float(row["seconds"]) for row in rows if row.get("seconds")]
    result = {
        "scheduler": label(config, "scheduler"),
        "data": label(config, "data"),
        "model": label(config, "model"),
        "weights": {"trainable": server.layout.trained, "maskable": server.layout.maskable},
        "target_density": config["density"] if loop.scheduler.has_target else None,
        "density_of": loop.density_of,
        "density": float(server.mask.double().mean()),
        "density_flops": metrics.get("density_flops"),
        "layer_density": dict(zip(layer_labels(server.layout), densities, strict=True)),
        "accuracy": metrics.get(monitor),
        "accuracy_union": metrics.get(f"{monitor}_union"),
        "best": best_of(rows, monitor, config["trainer"]["monitor_mode"] == "max"),
        "loss": metrics.get("val_loss"),
        "rounds": loop.round,
        "clients": loop.data.clients,
        "cohort": config["cohort"],
        "seed": config["seed"],
        "seconds": seconds,
        "seconds_per_round": fmean(durations) if durations else None,
        "cost": _known_costs(loop) | {"bytes_dense": 4 * server.layout.sent},
        "mismatch": {kind: metrics.get(f"mismatch_{kind}") for kind in ("clients", "server", "temporal")},
        "versions": versions(),
        "process": {
            "command": command,
            "host": host_facts(loop.fabric.device) | {"processes": loop.ranks.size},
            "peak_memory_mb": peak_memory_mb(loop.fabric.device),
        },
    }
    if loop.stop_reason:
        result["stopped"] = loop.stop_reason
    if tiers:
        result["tiers"] = [
            {"density": tier.density, "accuracy": metrics.get(monitor + tier_suffix(tier.density))} for tier in tiers
        ]
    for kind in ("clients", "finetuned"):
        if f"{monitor}_{kind}" in metrics:
            endings = {"mean": "", "lowest_tenth": "_lowest", "highest_tenth": "_highest"}
            result[f"accuracy_{kind}"] = {name: metrics[f"{monitor}_{kind}{end}"] for name, end in endings.items()}
    if "late" in metrics:
        result["reports"] = {"in_time": _total(rows, "participants"), "late": _total(rows, "late")}
    if config["trainer"]["on_client_error"] == "skip":
        result["failed_clients"] = loop.failed
    return result


def _known_costs(loop: FederatedLoop) -> dict[str, float]:
    return {name: value for name, value in loop.ledger.totals.items() if name != "flops" or loop.ledger.flops}


def best_of(rows: Sequence[Mapping[str, Any]], monitor: str, highest: bool) -> dict[str, Any] | None:
    """The best finite value of a metric and its round, the first of equal ones as in ``best.ckpt``.

    >>> rows = [{"round": "1", "val_acc": "0.5"}, {"round": "2", "val_acc": ""}, {"round": "3", "val_acc": "0.75"}]
    >>> best_of(rows, "val_acc", highest=True), best_of(rows, "val_f1", highest=True)
    ({'value': 0.75, 'round': 3}, None)
    """
    pairs = [(float(row[monitor]), int(float(row["round"]))) for row in rows if row.get(monitor)]
    pairs = [(value, round) for value, round in pairs if math.isfinite(value)]
    if not pairs:
        return None
    value, round = (max if highest else min)(pairs, key=lambda pair: pair[0])
    return {"value": value, "round": round}


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write ``result`` as JSON, infinite numbers and NaN as null; after an error no file is left half written.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        write_atomically(path, (json.dumps(_finite(result), indent=2) + "\n").encode())
    except OSError as error:
        hint = "the run itself is complete, with its last checkpoint"
        raise RunError(f"{path}: cannot be written ({error.strerror or error}); {hint}") from error


def _total(rows: Sequence[Mapping[str, Any]], column: str) -> int:
    """The sum of a column of counts; values that were read from the file of a resumed run are text."""
    return sum(int(float(row.get(column) or 0)) for row in rows)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
