"""Reads what ``configure_optimizers`` may return."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from flash_pl.checks import check_numbers
from flash_pl.errors import ConfigError, ModuleError


@dataclass(frozen=True)
class GradientClipping:
    """Clipping as in Lightning's Trainer; it sees masked gradients.

    Args:
        value: what the gradients' norm, or each of them, may be at most; None or 0 clips nothing.
        algorithm: "norm" or "value".

    Raises:
        ConfigError: by the Trainer's argument, what is not allowed.
    """

    value: float | None = None
    algorithm: str = "norm"

    def __post_init__(self) -> None:
        if self.value is not None:
            check_numbers(gradient_clip_val=self.value)
            if not self.value >= 0:
                raise ConfigError("gradient_clip_val", self.value, "a number of at least 0, or None")
        if self.algorithm not in ("norm", "value"):
            raise ConfigError("gradient_clip_algorithm", self.algorithm, "norm or value")


RATES = {"lr", "initial_lr", "max_lr", "min_lr", "swa_lr"}  # of a parameter group
RATE_LISTS = {"base_lrs", "max_lrs", "_last_lr"}  # of a scheduler, one a group
OTHER_LISTS = {"lr_lambdas", "base_momentums", "max_momentums"}  # likewise


def scale_(optimizer: Optimizer, schedulers: Sequence[Any], factor: float) -> None:
    """Every rate that a group or a scheduler will ever use, times ``factor``: the schedule's shape stays."""
    for group in optimizer.param_groups:
        for key in RATES & group.keys():
            group[key] = group[key] * factor  # a tensor may be the module's own
    for scheduler in _walk(schedulers):
        for key in RATE_LISTS & vars(scheduler).keys():
            setattr(scheduler, key, [rate * factor for rate in getattr(scheduler, key)])
        if hasattr(scheduler, "eta_min"):
            scheduler.eta_min = scheduler.eta_min * factor


def split_(optimizer: Optimizer, schedulers: Sequence[Any], factors: Mapping[Tensor, float]) -> None:
    """Give every parameter with a factor a group of its own, at the rates of its group times the factor.

    Schedulers go on as if the groups had been there from the start; only a rate that they hold for all groups alike
    (``eta_min`` of a cosine) stays one for all.
    """
    every = list(_walk(schedulers))
    for place, group in enumerate(list(optimizer.param_groups)):
        own = [weight for weight in group["params"] if factors.get(weight, 1.0) != 1.0]
        group["params"] = [weight for weight in group["params"] if factors.get(weight, 1.0) == 1.0]
        for weight in own:
            scaled = {key: group[key] * factors[weight] for key in RATES & group.keys()}
            optimizer.add_param_group(group | scaled | {"params": [weight]})
            for scheduler in every:
                for key in (RATE_LISTS | OTHER_LISTS) & vars(scheduler).keys():
                    rates = getattr(scheduler, key)
                    rates.append(rates[place] * factors[weight] if key in RATE_LISTS else rates[place])


def _walk(schedulers: Sequence[Any]) -> Iterator[Any]:
    """The schedulers and those that they are made of."""
    for scheduler in schedulers:
        yield scheduler
        yield from _walk(list(getattr(scheduler, "_schedulers", ())))


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
    """A fresh optimizer and its schedules, every learning rate times ``lr_scale`` (the round's decay), and those of
    single parameters times their ``factors``.

    Raises:
        ModuleError: no optimizer or several, or a schedule on a plateau of a metric: a client has no validation.
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
            f"{type(module).__name__}.configure_optimizers: a client needs exactly one optimizer, got {found!r}"
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
