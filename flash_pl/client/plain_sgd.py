"""Plain SGD for layers that sparse kernels compute: steps from the gradients of active weights alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flash_pl.kernels import Sink


class PlainSGD:
    """Takes the steps of plain SGD from the gradients of active weights alone, without dense gradient tensors.

    The new weights equal the optimizer's up to rounding. Whoever reads ``weight.grad`` finds the gradient there: it
    then moves out of its sink, and the optimizer steps with it.

    Args:
        weights: of the layers that the sparse kernels may compute.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._sinks = {weight: Sink() for weight in weights}
        self._optimizer: Optimizer | None = None
        self._taken: dict[Tensor, Sink] = {}
        self._stepping = False
        self._revealing = _revealing_parameter(self)

    def take_over(self, optimizer: Optimizer) -> None:
        """Take the optimizer's steps from now on, if they are w <- w - lr (g + weight_decay w).

        Only torch's SGD without momentum steps so. The optimizer and the weights' gradients must not have hooks: these
        would miss the gradients.
        """
        self.release()
        groups = optimizer.param_groups
        if type(optimizer) is not torch.optim.SGD or any(group["momentum"] or group["maximize"] for group in groups):
            return
        if has_step_hooks(optimizer) or any(map(has_gradient_hooks, self._sinks)):
            return
        self._optimizer = optimizer
        trained = [weight for group in groups for weight in group["params"] if weight in self._sinks]
        self._taken = {weight: self._sinks[weight] for weight in trained if type(weight) is nn.Parameter}
        for weight in self._taken:
            weight.__class__ = self._revealing

    def release(self) -> None:
        """Leave the steps to the optimizer, and drop gradients that were not applied."""
        for weight in self._taken:
            weight.__class__ = nn.Parameter
        self._optimizer, self._taken = None, {}
        for sink in self._sinks.values():
            sink.clear()

    def sink(self, weight: Tensor) -> Sink | None:
        """Return where the kernels leave the gradient of ``weight``; None if the optimizer takes the steps."""
        return self._taken.get(weight)

    def clear(self) -> None:
        """Drop the gradients before a backward pass, as ``zero_grad`` does."""
        for sink in self._taken.values():
            sink.clear()

    @torch.no_grad()
    def reveal(self, weight: Tensor) -> None:
        """Move the gradient of ``weight`` to where autograd keeps it, unless the optimizer asks, in ``stepping``."""
        sink = self._taken.get(weight)
        if self._stepping or sink is None or sink.gradient is None:
            return
        gradient = torch.zeros_like(weight)
        sink.add_to_(gradient)
        sink.clear()
        own = own_grad(weight)
        set_own_grad(weight, gradient if own is None else own.add_(gradient))

    def drop(self, weight: Tensor) -> None:
        """Drop the gradient of ``weight``; somebody sets another one."""
        if (sink := self._taken.get(weight)) is not None:
            sink.clear()

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Inside the block the optimizer steps; at its end the gradients in the sinks are applied at its rates.

        A weight may also have a gradient from autograd, for example from a penalty on the weight itself. The optimizer
        has then stepped with that gradient, weight decay included.
        """
        if self._optimizer is None:
            yield
            return
        if has_step_hooks(self._optimizer):  # registered after take_over
            for weight in self._taken:
                self.reveal(weight)
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
        for group in self._optimizer.param_groups:
            for weight in group["params"]:
                if weight in self._taken:
                    decay = float(group["weight_decay"]) if own_grad(weight) is None else 0.0
                    with torch.no_grad():
                        self._taken[weight].step_(weight, float(group["lr"]), decay)


_GRAD: Any = torch.Tensor.grad


def own_grad(weight: Tensor) -> Tensor | None:
    """Return the gradient that autograd keeps for ``weight``, without one that is still in a sink."""
    gradient: Tensor | None = _GRAD.__get__(weight)
    return gradient


def set_own_grad(weight: Tensor, gradient: Tensor | None) -> None:
    """Set the gradient that autograd keeps for ``weight``."""
    _GRAD.__set__(weight, gradient)


def has_gradient_hooks(weight: Tensor) -> bool:
    """Whether somebody has registered a hook that sees the gradient of ``weight``."""
    return bool(weight._backward_hooks or weight._post_accumulate_grad_hooks)


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether somebody has registered a hook that runs before or after a step."""
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


def _revealing_parameter(sgd: PlainSGD) -> type[nn.Parameter]:
    """Return the class that parameters have while ``sgd`` takes their steps: ``grad`` also shows what sinks hold."""

    class RevealingParameter(nn.Parameter):
        @property
        def grad(self) -> Tensor | None:
            sgd.reveal(self)
            return own_grad(self)

        @grad.setter
        def grad(self, gradient: Tensor | None) -> None:
            sgd.drop(self)
            set_own_grad(self, gradient)

        @grad.deleter
        def grad(self) -> None:
            sgd.drop(self)
            _GRAD.__delete__(self)

    return RevealingParameter
