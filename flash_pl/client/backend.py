"""Backends compute the layers of a client: torch's own kernels, or layers compiled by torch."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from flash_pl.client.plain_sgd import PlainSGD


class Backend:
    """Torch's own kernels, which also multiply by the zeros of a mask. Subclasses compute layers in other ways.

    A backend is a context manager; it computes the layers inside its ``with`` block. The module keeps its class, its
    parameters and its hooks.

    Attributes:
        name: of the kernels, for the summary of a run.
        dense: True while the gradients of pruned weights are needed, so that torch must compute the layers.
        training_backward: True in the backward pass of a training step, whose gradients of pruned weights become 0.
            Other backward passes are the user's own and get all gradients.
        sgd: takes the optimizer's steps for the layers that sparse kernels compute.
    """

    name = "dense kernels"

    def __init__(self) -> None:
        self.dense = self.training_backward = False
        self.sgd = PlainSGD([])

    def __enter__(self) -> "Backend":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def set_mask(self, mask: Tensor) -> None:
        """Tell the backend the mask, bool ``[maskable]``; weights outside of it are 0."""

    def eager(self) -> AbstractContextManager[None]:
        """Compute layers by torch's single operations inside the ``with`` block, so that FLOPs can be counted."""
        return nullcontext()


class CompiledBackend(Backend):
    """Compiles ``forward`` of the module and of its direct submodules with ``torch.compile``.

    Hooks, logging and the optimizer stay as they are. A step that calls ``self(batch)`` runs one compiled graph, and so
    does a step that calls ``self.model(batch)``. The first steps of training and of evaluation compile, which takes
    from seconds to minutes.

    Args:
        module: bound.
    """

    name = "compiled kernels"

    def __init__(self, module: L.LightningModule) -> None:
        super().__init__()
        self._parts = [module, *(part for part in module.children() if not isinstance(part, Metric))]

    def __enter__(self) -> "CompiledBackend":
        for part in self._parts:
            part._compiled_call_impl = _compiled_call(part)
        return self

    def __exit__(self, *error: object) -> None:
        for part in self._parts:
            part._compiled_call_impl = None  # torch has no public way to undo module.compile()

    @contextmanager
    def eager(self) -> Iterator[None]:
        with torch.compiler.set_stance("force_eager"):
            yield


def _compiled_call(part: nn.Module) -> Callable[..., Any]:
    """Return what ``part.compile()`` would set.

    Older versions of torch do not trace frames of torch's own files, so that an ``nn.Sequential`` would not be
    compiled. They do trace the frame of ``run``, and what it calls.
    """
    call = part._call_impl

    def run(*arguments: Any, **keywords: Any) -> Any:
        return call(*arguments, **keywords)

    run.__code__ = run.__code__.replace()  # torch keeps only a few traces per code object: each part needs its own
    return torch.compile(run)
