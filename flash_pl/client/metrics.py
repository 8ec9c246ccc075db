"""Metrics of a module that trains and is evaluated in one of several processes."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torchmetrics import Metric


@contextmanager
def unsynchronised(module: nn.Module) -> Iterator[None]:
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
