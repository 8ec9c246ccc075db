"""Metrics of a module that trains and is evaluated in one of several processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from flash_pl.errors import ModuleError


class Meter:
    """Collects ``self.log`` calls: numbers as means weighted by batch size, torchmetrics by their own ``compute``."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        for metric in getattr(self, "_metrics", {}).values():
            metric.reset()
        self._sums: dict[str, Any] = {}
        self._weights: dict[str, int] = {}
        self._metrics: dict[str, Metric] = {}

    def update(self, name: str, value: float | Tensor | Metric, weight: int) -> None:
        """Add one logged value; ``weight`` is its number of samples. Does not wait for the device.

        Raises:
            ModuleError: it is no number.
        """
        if isinstance(value, Metric):
            self._metrics[name] = value
            return
        if not isinstance(value, Tensor | SupportsFloat) or (isinstance(value, Tensor) and value.numel() != 1):
            what = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ModuleError(f"log({name!r}): {what} is no number")
        if isinstance(value, Tensor):
            value = value.detach().float().squeeze()  # a sum in half precision would soon stand still
        self._sums[name] = self._sums.get(name, 0.0) + value * weight
        self._weights[name] = self._weights.get(name, 0) + weight

    def compute(self) -> dict[str, float]:
        """All means so far, as floats; the one place that waits for the device. Resets the torchmetrics."""
        means = {name: float(torch.as_tensor(total)) / self._weights[name] for name, total in self._sums.items()}
        means |= {name: float(metric.compute()) for name, metric in self._metrics.items()}
        for metric in self._metrics.values():
            metric.reset()
        return means


@contextmanager
def unsynchronized(module: nn.Module) -> Iterator[None]:
    """Meanwhile the module's torchmetrics count what this process has seen.

    By default ``compute`` joins the states of all processes, which suits one model on parts of the data; here each
    process has another client or another model.
    """
    before = {part: part.distributed_available_fn for part in module.modules() if isinstance(part, Metric)}
    for metric in before:
        metric.distributed_available_fn = _alone
    try:
        yield
    finally:
        for metric, available in before.items():
            metric.distributed_available_fn = available


def _alone() -> bool:
    """Whether there are other processes to ask."""
    return False
