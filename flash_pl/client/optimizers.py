"""Reads what ``configure_optimizers`` may return."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from flash_pl.client.rates import scale_, split_
from flash_pl.errors import ModuleError


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


def configure(
    module: L.LightningModule, lr_scale: float = 1.0, factors: Mapping[Tensor, float] | None = None
) -> tuple[Optimizer, list[Schedule]]:
    """A fresh optimiser and its schedules, every learning rate times ``lr_scale`` (the round's decay), and those of
    single parameters times their ``factors``.

    Raises:
        ModuleError: no optimiser or several, or a schedule on a plateau of a metric: a client has no validation.
    """
    found: Any = module.configure_optimizers()
    schedules: list[Any] = []
    if isinstance(found, list | tuple) and len(found) == 1:
        found = found[0]
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], list | tuple):
        found, schedules = found[0], list(found[1]) if isinstance(found[1], list | tuple) else [found[1]]
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
    schedulers = [schedule.scheduler for schedule in parsed]
    if lr_scale != 1.0:
        scale_(found, schedulers, lr_scale)
    if factors:
        split_(found, schedulers, factors)
    return found, parsed


def _fields(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        return {"scheduler": entry}
    if entry.get("interval", "epoch") not in ("epoch", "step"):
        raise ModuleError(f"a schedule's interval is epoch or step, not {entry['interval']!r}")
    return {key: entry[key] for key in ("scheduler", "interval", "frequency") if key in entry}
