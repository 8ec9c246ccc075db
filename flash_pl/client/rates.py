"""Learning rates of an optimiser and its schedules, changed from outside."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

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
