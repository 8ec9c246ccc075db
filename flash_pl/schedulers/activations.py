"""Sparse activations in the backward pass: what a layer keeps of its input for the gradient of its weight."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from flash_pl.client import ClientState
from flash_pl.sparsity import kth_largest, layers_of


@contextmanager
def pruned_activations(client: ClientState, densities: Tensor) -> Iterator[None]:
    """While it is entered, layer l computes the gradient of its weight from the ``densities[l]`` share of its input
    that is largest in magnitude, over the whole batch; forward passes and other gradients stay exact.

    Args:
        client: whose maskable layers.
        densities: float64 ``[layers]``; 1 leaves a layer alone.
    """
    handles, layers = [], layers_of(client.module, [slot.name for slot in client.layout.layers])
    for slot, density in zip(client.layout.layers, densities.tolist(), strict=True):
        for layer in layers[slot.name] if density < 1 else ():
            keeping = _Keeping(density)
            handles.append(layer.register_forward_pre_hook(keeping.enter))
            handles.append(layer.register_forward_hook(keeping.leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Keeping:
    """The hooks around one layer's forward pass."""

    def __init__(self, density: float) -> None:
        self.density = density

    def enter(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.elements, self.dimensions = elements_with_padding(layer, inputs[0]), inputs[0].ndim
        self.weight: Any = layer.weight
        self.saving = saved_tensors_hooks(self.pack, lambda kept: kept)
        self.saving.__enter__()

    def leave(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.saving.__exit__()

    def pack(self, saved: Tensor) -> Tensor:
        """What is kept of a tensor that the layer saves; its input may come in another shape or as a copy."""
        return keep_largest(saved, self.density) if self.is_input(saved) else saved

    def is_input(self, saved: Tensor) -> bool:
        """Whether a saved tensor is the layer's input; its weight may have as many elements, even in another type."""
        if saved.numel() != self.elements or saved.ndim < min(2, self.dimensions):  # kernels keep weights in a row
            return False
        weight = self.weight.detach()
        if saved.numel() != weight.numel():
            return True
        views = [saved, saved.mT] if saved.ndim == 2 else [saved]
        return not any(view.shape == weight.shape and view.equal(weight.to(view.dtype)) for view in views)


def elements_with_padding(layer: nn.Module, x: Tensor) -> int:
    """The elements of a layer's input, with the padding that a convolution adds before its kernel sees it: any other
    than zeros, and of zeros, as ``padding="same"`` asks for them, what one side has more than the other."""
    sides = getattr(layer, "_reversed_padding_repeated_twice", ())  # of the last dimension first: before, behind, ...
    shape = list(x.shape)
    for back, (before, behind) in enumerate(zip(sides[::2], sides[1::2], strict=True), 1):
        shape[-back] += before + behind if layer.padding_mode != "zeros" else abs(behind - before)
    return prod(shape)


def keep_largest(values: Tensor, density: float) -> Tensor:
    """The share ``density`` of ``values`` that is largest in magnitude, at least one, the others 0; equals all stay."""
    magnitude = values.detach().abs()
    threshold = kth_largest(magnitude.reshape(-1), max(1, int(density * magnitude.numel())))
    return torch.where(magnitude >= threshold, values, 0.0)
