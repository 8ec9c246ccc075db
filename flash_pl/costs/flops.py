"""Floating-point operations of a model under a mask: theoretical ones, what kernels make of them is another matter."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from flash_pl.sparsity import layers_of


@dataclass(frozen=True)
class Flops:
    """Forward FLOPs of one sample, dense, a multiply-add counting as two.

    ``layers`` are those of the maskable layers in their order, ``rest`` all others. The layer that works on the input
    needs no gradient of it: ``first`` says which of the maskable layers that is; where it is None, ``input`` are the
    FLOPs of the layer without a mask that does, a part of ``rest``.
    """

    layers: tuple[float, ...]
    rest: float
    first: int | None
    input: float = 0.0

    def forward(self, densities: Tensor) -> float:
        """f_S: the sum of the layers' FLOPs times their density, and the rest; f_D for densities of 1."""
        return sum(f * d for f, d in zip(self.layers, densities.tolist(), strict=True)) + self.rest

    def of_each(self, samples: int) -> "Flops":
        """Those of one sample, where these are of so many."""
        layers = tuple(f / samples for f in self.layers)
        return Flops(layers, self.rest / samples, self.first, self.input / samples)

    def training(self, densities: Tensor, dense_gradients: float = 0.0) -> float:
        """Of one sample in one step: forward f_S, gradient of the inputs f_S without the first layer, gradient of the
        weights f_S, but f_D in the share ``dense_gradients`` of steps that need those of pruned weights."""
        forward = self.forward(densities)
        input_layer = self.input if self.first is None else self.layers[self.first] * float(densities[self.first])
        return 3 * forward - input_layer + dense_gradients * (self.forward(self.dense) - forward)

    @property
    def dense(self) -> Tensor:
        """Densities of 1, to count a dense model."""
        return torch.ones(len(self.layers), dtype=torch.float64)


@torch.no_grad()
def count_flops(module: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> Flops:
    """The FLOPs of a pass through a module, by PyTorch's own counter; of all its samples together.

    A weight that is used without a call of its layer, as ``out_proj`` of ``nn.MultiheadAttention`` is, counts among the
    rest, so as dense.

    Args:
        names: of the maskable weights, such as ``"model.conv1.weight"``.
        run: calls the module, or its validation step, on a batch.
    """
    masked = {id(layer): name for name, layers in layers_of(module, names).items() for layer in layers}
    counted = [layer for layer in module.modules() if id(layer) in masked or not list(layer.children())]
    found, before = dict.fromkeys(names, 0.0), dict[int, float]()  # by id: a metric's hash changes with its state
    first: list[tuple[str | None, float]] = []
    with FlopCounterMode(display=False) as counter:

        def enter(layer: nn.Module, _: Any) -> None:
            before[id(layer)] = counter.get_total_flops()

        def leave(layer: nn.Module, _: Any, __: Any) -> None:
            spent, name = counter.get_total_flops() - before[id(layer)], masked.get(id(layer))
            if name is not None:
                found[name] += spent
            if spent and not first:
                first.append((name, spent))

        handles = [layer.register_forward_pre_hook(enter) for layer in counted]
        handles += [layer.register_forward_hook(leave) for layer in counted]
        try:
            with _attention_in_parts():
                run()
        finally:
            for handle in handles:
                handle.remove()
        total = counter.get_total_flops()
    rest = total - sum(found.values())
    name, spent = first[0] if first else (None, 0.0)
    if name is None:
        return Flops(tuple(found.values()), rest, None, spent)
    return Flops(tuple(found.values()), rest, list(names).index(name))


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """While it is entered, attention is computed by products of matrices; not all fused kernels are counted."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
