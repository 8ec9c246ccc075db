"""Steps of plain SGD at the active weights alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

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
        """Take over the optimiser's steps for the layers, if they are w <- w - lr (g + weight_decay w).

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
        """Leave the steps to the optimiser, and forget gradients that nobody has used."""
        self._groups, self._taken = [], {}
        for sink in self._sinks.values():
            sink.clear()

    def sink(self, weight: Tensor) -> Sink | None:
        """Where the kernels leave a weight's gradient; None while the optimiser takes the steps."""
        return self._taken.get(weight)

    def clear(self) -> None:
        """Before a backward pass, as ``zero_grad``."""
        for weight, _ in self._groups:
            self._sinks[weight].clear()

    @torch.no_grad()
    def step_(self) -> None:
        """The step, for the weights whose gradients have come; after the optimiser's own.

        A weight may have a gradient of autograd's too, as from a penalty on the weight itself: the optimiser has taken
        a step with that one, weight decay included.
        """
        for weight, group in self._groups:
            decay = float(group["weight_decay"]) if weight.grad is None else 0.0
            self._sinks[weight].step_(weight, float(group["lr"]), decay)
