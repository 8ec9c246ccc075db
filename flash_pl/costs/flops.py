"""Theoretical floating-point operations of a model under a mask; how fast kernels compute them is another matter."""

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
    """Forward FLOPs of one sample through the dense model; a multiply-add counts as two.

    Args:
        layers: of the maskable layers, in their order.
        rest: of all other layers.
        first: index of the maskable layer that works on the input, which needs no gradient of it; None if that layer is
            not maskable.
        input: FLOPs of the layer that works on the input if it is not maskable, a part of ``rest``.

    >>> flops = Flops(layers=(100.0, 40.0), rest=10.0, first=0)
    >>> flops.forward(torch.tensor([0.5, 0.25]))
    70.0
    >>> flops.training(flops.dense)
    350.0
    """

    layers: tuple[float, ...]
    rest: float
    first: int | None
    input: float = 0.0

    def forward(self, densities: Tensor) -> float:
        """f_S: the sum of the layers' FLOPs times their density, plus the rest; f_D for densities of 1."""
        return sum(f * d for f, d in zip(self.layers, densities.tolist(), strict=True)) + self.rest

    def of_each(self, samples: int) -> "Flops":
        """The FLOPs of one sample, where these are of ``samples`` samples."""
        layers = tuple(f / samples for f in self.layers)
        return Flops(layers, self.rest / samples, self.first, self.input / samples)

    def training(self, densities: Tensor, dense_gradients: float = 0.0) -> float:
        """FLOPs of one sample in one step.

        The forward pass takes f_S, the gradient of the inputs f_S without the first layer, the gradient of the weights
        f_S, or f_D in the share ``dense_gradients`` of the steps, which compute gradients of pruned weights too.
        """
        forward = self.forward(densities)
        input_layer = self.input if self.first is None else self.layers[self.first] * float(densities[self.first])
        return 3 * forward - input_layer + dense_gradients * (self.forward(self.dense) - forward)

    @property
    def dense(self) -> Tensor:
        """Layer densities of 1, of a dense model."""
        return torch.ones(len(self.layers), dtype=torch.float64)


@torch.no_grad()
def count_flops(module: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> Flops:
    """The FLOPs of a pass of all samples of a batch through a module, by PyTorch's own counter.

    A weight that is used without a call of its layer, as ``out_proj`` of ``nn.MultiheadAttention`` is, counts as dense,
    in ``rest``.

    Args:
        module: the model.
        names: of the maskable weights, such as ``"model.conv1.weight"``.
        run: calls the module, or its validation step, on a batch.

    >>> network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> count_flops(network, ["0.weight", "2.weight"], lambda: network(torch.ones(1, 8)))
    Flops(layers=(64.0, 16.0), rest=0.0, first=0, input=0.0)
    """
    masked = {id(layer): name for name, layers in layers_of(module, names).items() for layer in layers}
    counted = [layer for layer in module.modules() if id(layer) in masked or not list(layer.children())]
    by_name, before = dict.fromkeys(names, 0.0), dict[int, float]()  # by id: a metric's hash changes with its state
    first: list[tuple[str | None, float]] = []
    with FlopCounterMode(display=False) as counter:

        def enter(layer: nn.Module, _: Any) -> None:
            before[id(layer)] = counter.get_total_flops()

        def leave(layer: nn.Module, _: Any, __: Any) -> None:
            spent, name = counter.get_total_flops() - before[id(layer)], masked.get(id(layer))
            if name is not None:
                by_name[name] += spent
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
    rest = total - sum(by_name.values())
    name, spent = first[0] if first else (None, 0.0)
    if name is None:
        return Flops(tuple(by_name.values()), rest, None, spent)
    return Flops(tuple(by_name.values()), rest, list(names).index(name))


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """A context that computes attention by matrix products: the counter does not know all fused kernels."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
