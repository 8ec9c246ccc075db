"""The memory of a module's tensors before and after a run, and of those that are not in the arena during it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flash_pl.errors import ModuleError
from flash_pl.sparsity import Layout

Strides = Mapping[str, tuple[int, ...]]


def own_strides(module: nn.Module) -> Strides:
    """Return the strides of the module's tensors by name; a tensor with gaps gets contiguous ones."""
    return {name: torch.empty_like(tensor, device="meta").stride() for name, tensor in _tensors(module).items()}


@torch.no_grad()
def give_back_(module: nn.Module, strides: Strides) -> None:
    """Give every tensor of the module memory of its own, with these ``strides``; values stay as they are.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> strides, both = own_strides(layer), torch.zeros(8)
    >>> layer.weight.data = both[:4].view(2, 2).t()
    >>> give_back_(layer, strides)
    >>> layer.weight.stride(), layer.weight.untyped_storage().nbytes()
    ((2, 1), 16)
    """
    for name, tensor in _tensors(module).items():
        own = torch.empty_strided(
            tensor.shape, strides.get(name, tensor.stride()), dtype=tensor.dtype, device=tensor.device
        )
        tensor.data = own.copy_(tensor)


@torch.no_grad()
def to_channels_last_(module: nn.Module) -> None:
    """Store the module's 4-d tensors channels-last; others, such as those of a ``Conv3d``, stay as they are."""
    for tensor in _tensors(module).values():
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that have a shape already."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: tensor for name, tensor in tensors.items() if not is_lazy(tensor)}


class LocalBuffers:
    """The module's buffers outside of the arena: they are not sent, and every client starts from the same values.

    Args:
        module: has the buffers.
        layout: of the arena.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        in_arena = {slot.name for slot in layout.slots}
        self._module = module
        self._buffers = {name: buffer for name, buffer in module.named_buffers() if name not in in_arena}
        self._initial = {name: buffer.clone() for name, buffer in self._buffers.items()}

    def reset(self) -> None:
        """Set all buffers to their initial values."""
        for name, buffer in self._buffers.items():
            buffer.copy_(self._initial[name])

    def initial(self) -> dict[str, Tensor]:
        """Return the initial values by name, on the CPU."""
        return {name: value.cpu() for name, value in self._initial.items()}

    @torch.no_grad()
    def set_initial(self, values: Mapping[str, Tensor]) -> None:
        """Take the initial values from ``values``, by name: those of another process or of a checkpoint.

        Raises:
            ModuleError: a buffer has another shape.
        """
        for name in self._buffers.keys() & values.keys():
            initial, value = self._initial[name], values[name]
            if not isinstance(value, Tensor):
                raise ModuleError(f"{name} is a {type(value).__name__} in the resumed run, here a tensor")
            if initial.shape != value.shape:
                raise ModuleError(f"{name} has shape {[*value.shape]} in the resumed run, here {[*initial.shape]}")
            initial.copy_(value)
        self.reset()

    def replaced(self) -> str | None:
        """The name of the first buffer that is another tensor in the module now, or missing there; or None."""
        now = dict(self._module.named_buffers())
        return next((name for name, buffer in self._buffers.items() if now.get(name) is not buffer), None)
