"""Dense layers that torch compiles."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import nn
from torchmetrics import Metric

from flash_pl.client.backend import Backend


class Compiled(Backend):
    """The module's ``forward`` and its parts by ``torch.compile``; hooks, logging and the optimiser stay as they are.

    A step that calls ``self(batch)`` runs one compiled graph, one that calls ``self.model(batch)`` as well. The first
    steps of training and of evaluation compile, which takes from seconds to minutes.

    Args:
        module: bound.
    """

    def __init__(self, module: L.LightningModule) -> None:
        super().__init__()
        self._parts = [module, *(part for part in module.children() if not isinstance(part, Metric))]

    def __enter__(self) -> "Compiled":
        for part in self._parts:
            part._compiled_call_impl = _compiled_call(part)
        return self

    def __exit__(self, *error: object) -> None:
        for part in self._parts:
            part._compiled_call_impl = None  # torch has no way back of its own

    @contextmanager
    def eager(self) -> Iterator[None]:
        with torch.compiler.set_stance("force_eager"):
            yield


def _compiled_call(part: nn.Module) -> Callable[..., Any]:
    """What ``part.compile()`` would set. Older versions of torch trace no frame of their own files, so that an
    ``nn.Sequential`` would stay as it is: they trace this one, and what it calls."""
    call = part._call_impl

    def run(*arguments: Any, **keywords: Any) -> Any:
        return call(*arguments, **keywords)

    run.__code__ = run.__code__.replace()  # traces are kept by code, a few of each: let every part have its own
    return torch.compile(run)
