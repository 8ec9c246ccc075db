"""Sparse activations in the backward pass: what a layer keeps of its input for the gradient of its weight."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from flash_pl.client import ClientState
from flash_pl.sparsity import kth_largest


@contextmanager
def pruned_activations(client: ClientState, densities: Tensor) -> Iterator[None]:
    """While it is entered, layer l computes the gradient of its weight from the ``densities[l]`` share of its input
    that is largest in magnitude, over the whole batch; forward passes and other gradients stay exact.

    Args:
        client: whose maskable layers.
        densities: float64 ``[layers]``; 1 leaves a layer alone.
    """
    handles = []
    for slot, density in zip(client.layout.layers, densities.tolist(), strict=True):
        if density < 1:
            layer = client.module.get_submodule(slot.name.rpartition(".")[0])
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
        self.elements, self.dimensions = inputs[0].numel(), inputs[0].ndim
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


def keep_largest(values: Tensor, density: float) -> Tensor:
    """The share ``density`` of ``values`` that is largest in magnitude, at least one, the others 0; equals all stay."""
    magnitude = values.detach().abs()
    threshold = kth_largest(magnitude.reshape(-1), max(1, int(density * magnitude.numel())))
    return torch.where(magnitude >= threshold, values, 0.0)
