"""Reads what ``configure_optimizers`` may return."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
from torch.optim import Optimizer

from flash_pl.errors import ModuleError

RATES = {"lr", "initial_lr", "max_lr", "min_lr"}  # of a parameter group
RATE_LISTS = {"base_lrs", "max_lrs", "_last_lr"}  # of a scheduler


@dataclass(frozen=True)
class Schedule:
    """A learning-rate scheduler and when it steps: every ``frequency`` epochs or steps of a local training."""

    scheduler: Any
    interval: str = "epoch"
    frequency: int = 1

    def due(self, batch: int, batches: int, epoch: int) -> bool:
        """Whether to step after batch ``batch`` of ``batches`` in epoch ``epoch`` (both from 1), as in the Trainer."""
        if self.interval == "step":
            return batch % self.frequency == 0
        return batch == batches and epoch % self.frequency == 0


def configure(module: L.LightningModule, lr_scale: float = 1.0) -> tuple[Optimizer, list[Schedule]]:
    """A fresh optimiser and its schedules, every learning rate times ``lr_scale`` (the round's decay).

    Raises:
        ModuleError: no optimiser or several, or a schedule on a plateau of a metric: a client has no validation.
    """
    found: Any = module.configure_optimizers()
    schedules: list[Any] = []
    if isinstance(found, list | tuple) and len(found) == 1:
        found = found[0]
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], list | tuple):
        found, schedules = found[0], list(found[1])
    elif isinstance(found, dict):
        schedules = [found["lr_scheduler"]] if "lr_scheduler" in found else []
        found = found["optimizer"]
    if isinstance(found, list | tuple) and len(found) == 1:
        found = found[0]
    if not isinstance(found, Optimizer):
        raise ModuleError(
            f"{type(module).__name__}.configure_optimizers: a client needs exactly one optimiser, got {found!r}"
        )
    parsed = [Schedule(**_fields(entry)) for entry in schedules]
    for schedule in parsed:
        if "Plateau" in type(schedule.scheduler).__name__:
            raise ModuleError(
                f"{type(module).__name__}: ReduceLROnPlateau needs a validation inside the client; there is none"
            )
    if lr_scale != 1.0:
        _scale(found, parsed, lr_scale)
    return found, parsed


def _fields(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        return {"scheduler": entry}
    return {key: entry[key] for key in ("scheduler", "interval", "frequency") if key in entry}


def _scale(optimizer: Optimizer, schedules: list[Schedule], factor: float) -> None:
    """Every rate that a group or a schedule will ever use, so that the schedule's shape stays."""
    for group in optimizer.param_groups:
        for key in RATES & group.keys():
            group[key] *= factor
    for scheduler in _walk([schedule.scheduler for schedule in schedules]):
        for key in RATE_LISTS & vars(scheduler).keys():
            setattr(scheduler, key, [rate * factor for rate in getattr(scheduler, key)])
        if hasattr(scheduler, "eta_min"):
            scheduler.eta_min *= factor


def _walk(schedulers: list[Any]) -> Iterator[Any]:
    """The schedulers and those that they are made of."""
    for scheduler in schedulers:
        yield scheduler
        yield from _walk(list(getattr(scheduler, "_schedulers", ())))
