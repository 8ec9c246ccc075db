"""Floating-point operations of a model under a mask: theoretical ones, what kernels make of them is another matter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Flops:
    """Forward FLOPs of one sample, dense, a multiply-add counting as two.

    ``layers`` are those of the maskable layers in their order, ``rest`` all others; ``first`` says which of the
    maskable layers works on the input, None if none does: no gradient of its input is needed.
    """

    layers: tuple[float, ...]
    rest: float
    first: int | None

    def forward(self, densities: Tensor) -> float:
        """f_S: the sum of the layers' FLOPs times their density, and the rest; f_D for densities of 1."""
        return sum(f * d for f, d in zip(self.layers, densities.tolist(), strict=True)) + self.rest

    def training(self, densities: Tensor, dense_gradients: float = 0.0) -> float:
        """Of one sample in one step: forward f_S, gradient of the inputs f_S without the first layer, gradient of the
        weights f_S, but f_D in the share ``dense_gradients`` of steps that need those of pruned weights."""
        forward = self.forward(densities)
        input_layer = 0.0 if self.first is None else self.layers[self.first] * float(densities[self.first])
        return 3 * forward - input_layer + dense_gradients * (self.forward(self.dense) - forward)

    @property
    def dense(self) -> Tensor:
        """Densities of 1, to count a dense model."""
        return torch.ones(len(self.layers), dtype=torch.float64)


@torch.no_grad()
def count_flops(module: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> Flops:
    """The FLOPs of a pass through a module, by PyTorch's own counter; of all its samples together.

    Args:
        names: of the maskable weights, such as ``"model.conv1.weight"``.
        run: calls the module, or its validation step, on a batch.
    """
    found, order, before = dict.fromkeys(names, 0.0), [], {}
    shared = {name: module.get_parameter(name) for name in names}  # maybe by several layers
    layers = [
        (name, layer) for layer in module.modules() for name in names if getattr(layer, "weight", None) is shared[name]
    ]
    handles = []
    with FlopCounterMode(display=False) as counter:
        for name, layer in layers:

            def enter(_: nn.Module, __: Any, name: str = name) -> None:
                before[name] = counter.get_total_flops()
                order.append(name)

            def leave(_: nn.Module, __: Any, ___: Any, name: str = name) -> None:
                found[name] += counter.get_total_flops() - before[name]

            handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        total = counter.get_total_flops()
    masked = sum(found.values())
    # The first layer of all sees the input; if something that is never masked came before it, counting it costs little.
    first = list(names).index(order[0]) if order else None
    return Flops(tuple(found[name] for name in names), total - masked, first)
