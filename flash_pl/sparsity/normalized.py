"""Which maskable layers have an output that is normalized next."""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from flash_pl.sparsity.layout import layers_of

NORMS = (
    nn.modules.batchnorm._BatchNorm,  # also SyncBatchNorm
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@contextmanager
def watching_norms(module: nn.Module, names: Sequence[str]) -> Iterator[set[str]]:
    """A block that runs the module; the set then has the weights whose layer hands its output to a normalization.

    A normalization divides by the scale of what it gets, so the scale of these weights does not change what the network
    computes. The layer's output must reach it as it is: not reshaped, and not written to. Norms are PyTorch's modules;
    calls of ``torch.nn.functional`` are not seen.

    Args:
        module: the model.
        names: of the maskable weights, such as ``"model.conv1.weight"``.

    >>> import torch
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3))
    >>> with watching_norms(network, ["0.weight", "3.weight"]) as normalized:
    ...     output = network(torch.ones(1, 1, 8, 8))
    >>> normalized
    {'0.weight'}
    """
    normalized: set[str] = set()
    made: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}  # id of an output -> itself, its writes, the weight

    def remember(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                made[id(output)] = weakref.ref(output), _writes(output), name

        return hook

    def look_up(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        value = inputs[0] if inputs else None
        if isinstance(value, Tensor) and id(value) in made:
            output, writes, name = made[id(value)]
            if output() is value and _writes(value) == writes:  # another tensor may have got the id of a dead one
                normalized.add(name)

    handles = [
        layer.register_forward_hook(remember(name))
        for name, layers in layers_of(module, names).items()
        for layer in layers
    ]
    handles += [part.register_forward_pre_hook(look_up) for part in module.modules() if isinstance(part, NORMS)]
    try:
        yield normalized
    finally:
        for handle in handles:
            handle.remove()


def _writes(tensor: Tensor) -> int:
    """How often operations in place have written to a tensor; tensors of inference mode do not count it."""
    return 0 if tensor.is_inference() else tensor._version
