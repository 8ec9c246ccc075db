"""Metrics that a module logs in a federated run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from flash_pl.errors import ModuleError


class Meter:
    """Collects ``self.log`` calls: numbers as means weighted by batch size, torchmetrics by their own ``compute``.

    >>> meter = Meter()
    >>> meter.update("loss", 1.0, samples=3)
    >>> meter.update("loss", 5.0, samples=1)
    >>> meter.compute()
    {'loss': 2.0}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self._samples: dict[str, int] = {}
        self._metrics: dict[str, Metric] = {}

    def reset(self) -> None:
        """Forget everything."""
        for metric in self._metrics.values():
            metric.reset()
        for collected in (self._sums, self._samples, self._metrics):
            collected.clear()

    def update(self, name: str, value: float | Tensor | Metric, samples: int) -> None:
        """Add one logged value of a batch of ``samples`` samples. Does not wait for the device.

        Raises:
            ModuleError: the value is not a number.
        """
        if isinstance(value, Metric):
            self._metrics[name] = value
            return
        if not isinstance(value, Tensor | SupportsFloat) or (isinstance(value, Tensor) and value.numel() != 1):
            kind = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ModuleError(f"log({name!r}): {kind} is not a number")
        if isinstance(value, Tensor):
            value = value.detach().float().squeeze()  # sums in half precision soon stop growing
        self._sums[name] = self._sums.get(name, 0.0) + value * samples
        self._samples[name] = self._samples.get(name, 0) + samples

    def compute(self) -> dict[str, float]:
        """Return all means as floats and reset the torchmetrics. The only method that waits for the device."""
        means = {name: float(torch.as_tensor(total)) / self._samples[name] for name, total in self._sums.items()}
        means |= {name: float(metric.compute()) for name, metric in self._metrics.items()}
        for metric in self._metrics.values():
            metric.reset()
        return means


@contextmanager
def unsynchronized_metrics(module: nn.Module) -> Iterator[None]:
    """Let the module's torchmetrics count only what this process has seen, inside the ``with`` block.

    By default ``compute`` joins the states of all processes. That suits one model on parts of the data; in a federated
    run every process has another client or another model.
    """
    before = {part: part.distributed_available_fn for part in module.modules() if isinstance(part, Metric)}
    for metric in before:
        metric.distributed_available_fn = _not_distributed
    try:
        yield
    finally:
        for metric, available in before.items():
            metric.distributed_available_fn = available


def _not_distributed() -> bool:
    """Tell a metric that there are no other processes. A named function, because a module may be pickled meanwhile."""
    return False
