"""What computes the layers of a bound module."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from flash_pl.kernels import Sink


class PlainSGD:
    """Updates weights from the gradients of their active ones, which so never become a dense tensor.

    The weights come out as with a dense gradient, up to the rounding of the step.

    Args:
        weights: of the layers that the sparse kernels may compute.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._sinks = {weight: Sink() for weight in weights}
        self._groups: list[tuple[Tensor, dict[str, Any]]] = []
        self._taken: dict[Tensor, Sink] = {}

    def take(self, optimizer: Optimizer) -> None:
        """Take over the optimizer's steps for the layers, if they are w <- w - lr (g + weight_decay w).

        That is: torch's SGD without momentum, with no hook on it or on a weight's gradient.
        """
        self.leave()
        groups = optimizer.param_groups
        if type(optimizer) is not torch.optim.SGD or any(group["momentum"] or group["maximize"] for group in groups):
            return
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            return
        if any(weight._backward_hooks or weight._post_accumulate_grad_hooks for weight in self._sinks):
            return
        self._groups = [(weight, group) for group in groups for weight in group["params"] if weight in self._sinks]
        self._taken = {weight: self._sinks[weight] for weight, _ in self._groups}

    def leave(self) -> None:
        """Leave the steps to the optimizer, and forget gradients that nobody has used."""
        self._groups, self._taken = [], {}
        for sink in self._sinks.values():
            sink.clear()

    def sink(self, weight: Tensor) -> Sink | None:
        """Where the kernels leave a weight's gradient; None while the optimizer takes the steps."""
        return self._taken.get(weight)

    def clear(self) -> None:
        """Before a backward pass, as ``zero_grad``."""
        for weight, _ in self._groups:
            self._sinks[weight].clear()

    @torch.no_grad()
    def step_(self) -> None:
        """The step, for the weights whose gradients have come; after the optimizer's own.

        A weight may have a gradient of autograd's too, as from a penalty on the weight itself: the optimizer has taken
        a step with that one, weight decay included.
        """
        for weight, group in self._groups:
            decay = float(group["weight_decay"]) if weight.grad is None else 0.0
            self._sinks[weight].step_(weight, float(group["lr"]), decay)


class Backend:
    """Torch's own kernels, which multiply by the zeros of a mask too; subclasses know better.

    A module keeps its class, its parameters and its hooks, whatever computes it while this is entered.

    Attributes:
        dense: compute with torch for the time being: gradients of pruned weights are wanted.
        sgd: takes an optimizer's steps for the layers that the kernels compute.
    """

    def __init__(self) -> None:
        self.dense = False
        self.sgd = PlainSGD([])

    def __enter__(self) -> "Backend":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def follow(self, mask: Tensor) -> None:
        """From now on the maskable weights outside of ``mask``, bool ``[maskable]``, are 0."""

    def eager(self) -> AbstractContextManager[None]:
        """While it is entered, layers are torch's single operations, which can be counted."""
        return nullcontext()


class Compiled(Backend):
    """The module's ``forward`` and its parts by ``torch.compile``; hooks, logging and the optimizer stay as they are.

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
