"""A client's optimizer: ``configure_optimizers`` read as in Lightning, scaled learning rates, gradient clipping."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from flash_pl.checks import check_choice, check_numbers
from flash_pl.client.plain_sgd import has_step_hooks
from flash_pl.errors import ModuleError


@dataclass(frozen=True)
class LRSchedule:
    """A learning-rate scheduler and when it steps: every ``frequency`` epochs or steps of a local training.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    >>> schedule = LRSchedule(torch.optim.lr_scheduler.StepLR(optimizer, 1), interval="epoch", frequency=2)
    >>> [epoch for epoch in range(1, 7) if schedule.due(batch=10, batches=10, epoch=epoch)]
    [2, 4, 6]
    """

    lr_scheduler: Any
    interval: str = "epoch"
    frequency: int = 1

    def due(self, batch: int, batches: int, epoch: int) -> bool:
        """Whether to step after batch ``batch`` of ``batches`` in epoch ``epoch`` (both from 1), as in the Trainer."""
        if self.interval == "step":
            return batch % self.frequency == 0
        return batch == batches and epoch % self.frequency == 0


def configure_optimizer(module: L.LightningModule) -> tuple[Optimizer, list[LRSchedule]]:
    """Return a fresh optimizer of the module and its learning-rate schedulers.

    ``configure_optimizers`` may return any of Lightning's forms with one optimizer.

    Raises:
        ModuleError: there is no optimizer or more than one, or a scheduler that a client cannot step.
    """
    returned: Any = module.configure_optimizers()
    entries: list[Any] = []
    if isinstance(returned, list | tuple) and len(returned) == 1:
        returned = returned[0]
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], list | tuple):
        returned, entries = returned[0], list(returned[1]) if isinstance(returned[1], list | tuple) else [returned[1]]
    elif isinstance(returned, dict):
        entries = [returned["lr_scheduler"]] if "lr_scheduler" in returned else []
        returned = returned["optimizer"]
    if isinstance(returned, list | tuple) and len(returned) == 1:
        returned = returned[0]
    name = type(module).__name__
    if not isinstance(returned, Optimizer):
        raise ModuleError(f"{name}.configure_optimizers: a client needs exactly one optimizer, got {returned!r}")
    if _needs_closure(returned):
        problem = f"{type(returned).__name__} evaluates the loss several times in a step, and a client does it once"
        raise ModuleError(f"{name}.configure_optimizers: {problem}")
    lr_schedulers = [_lr_schedule(entry) for entry in entries]
    if any("Plateau" in type(schedule.lr_scheduler).__name__ for schedule in lr_schedulers):
        raise ModuleError(f"{name}: ReduceLROnPlateau needs a validation inside the client; there is none")
    return returned, lr_schedulers


# Their step changes each weight by its own gradients alone: a weight of 0 with gradients of 0 stays 0, with any
# momentum, weight decay and learning rate. Muon, for example, mixes all gradients of a matrix.
KEEP_ZEROS = (
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax),
    *(torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD, torch.optim.Rprop),
)


def keeps_zeros(optimizer: Optimizer) -> bool:
    """Return whether the optimizer is known to leave pruned weights at 0, given that their gradients are 0.

    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> keeps_zeros(torch.optim.Adam([weight])), keeps_zeros(torch.optim.LBFGS([weight]))
    (True, False)
    """
    return type(optimizer) in KEEP_ZEROS and not has_step_hooks(optimizer)


def _needs_closure(optimizer: Optimizer) -> bool:
    """Whether ``step`` needs a closure with which it evaluates the loss itself, as that of LBFGS does."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _lr_schedule(entry: Any) -> LRSchedule:
    """Read a learning-rate scheduler, or Lightning's dictionary with the scheduler and its interval."""
    if not isinstance(entry, dict):
        return LRSchedule(entry)
    interval = entry.get("interval", "epoch")
    if interval not in ("epoch", "step"):
        raise ModuleError(f"the interval of a learning-rate scheduler is epoch or step, not {interval!r}")
    return LRSchedule(entry["scheduler"], interval, entry.get("frequency", 1))


@dataclass(frozen=True)
class ScaledRates:
    """Learning rates that hold during the optimizer's step only: lr * lr_scale * factor.

    Between the steps the optimizer has its own rates. Learning-rate schedulers and the user's hooks see and change
    those, so that every schedule keeps its shape.

    Args:
        optimizer: the user's.
        lr_scale: for all parameters, such as the round's decay.
        factors: for single parameters; 1 for a parameter that is missing here.

    >>> import torch
    >>> first, second = torch.zeros(1), torch.zeros(1)
    >>> optimizer = torch.optim.SGD([first, second], lr=0.5)
    >>> rates = ScaledRates(optimizer, lr_scale=0.1, factors={second: 4.0})
    >>> with rates.applied():
    ...     [group["lr"] for group in optimizer.param_groups]
    [0.05, 0.2]
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.5]
    """

    optimizer: Optimizer
    lr_scale: float = 1.0
    factors: Mapping[Tensor, float] = field(default_factory=dict)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the optimizer its scaled rates inside the ``with`` block.

        A parameter group whose parameters have several factors is split into one group per factor. Settings that the
        optimizer writes into a group during its step, such as a counter, are kept.
        """
        if self.lr_scale == 1.0 and all(factor == 1.0 for factor in self.factors.values()):
            yield
            return
        groups = list(self.optimizer.param_groups)
        scaled = [self._scaled(group) for group in groups]
        # In place, because an optimizer that wraps another one shares this list with it.
        self.optimizer.param_groups[:] = chain.from_iterable(scaled)
        try:
            yield
        finally:
            self.optimizer.param_groups[:] = groups
            for group, parts in zip(groups, scaled, strict=True):
                for part in reversed(parts):  # the first part's settings win
                    group.update({key: value for key, value in part.items() if key not in ("params", "lr")})

    def _scaled(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """Split a parameter group by factor; every part has the group's settings and a scaled rate."""
        parts: dict[float, list[Tensor]] = {}
        for parameter in group["params"]:
            parts.setdefault(self.factors.get(parameter, 1.0), []).append(parameter)
        # A new number each time: the group's rate may be a tensor that belongs to the user's module.
        return [
            group | {"params": parameters, "lr": group["lr"] * self.lr_scale * factor}
            for factor, parameters in parts.items()
        ]


@dataclass(frozen=True)
class GradientClipping:
    """Gradient clipping as in Lightning's Trainer; gradients of pruned weights are 0 before.

    Args:
        value: the largest norm of all gradients together ("norm"), or the largest magnitude of a gradient's elements
            ("value"). None or 0 clips nothing.
        algorithm: "norm" or "value".

    Raises:
        ConfigError: a setting is not allowed; the error's key is the Trainer's argument.

    >>> GradientClipping(0.5, "sum")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: gradient_clip_algorithm: 'sum' is not one of norm, value
    """

    value: float | None = None
    algorithm: str = "norm"

    def __post_init__(self) -> None:
        check_numbers("[0, inf)", optional=True, gradient_clip_val=self.value)
        check_choice("norm", "value", gradient_clip_algorithm=self.algorithm)
