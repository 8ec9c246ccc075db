"""Buffers that no client sends: counters, tables, masks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flash_pl.errors import ModuleError
from flash_pl.sparsity import Layout


class OwnBuffers:
    """A module's buffers outside the arena. They must not pass from one client to the next."""

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        inside = {slot.name for slot in layout.slots}
        self._buffers = {name: buffer for name, buffer in module.named_buffers() if name not in inside}
        self._first = {name: buffer.clone() for name, buffer in self._buffers.items()}

    def reset(self) -> None:
        """All are as at first."""
        for name, buffer in self._buffers.items():
            buffer.copy_(self._first[name])

    def first(self) -> dict[str, Tensor]:
        """What they are at first, by their names, on the CPU."""
        return {name: value.cpu() for name, value in self._first.items()}

    @torch.no_grad()
    def start_from(self, values: Mapping[str, Tensor]) -> None:
        """Be at first what ``values`` has under their names: those of another process, or of the run that goes on.

        Raises:
            ModuleError: one of them has another shape.
        """
        for name in self._buffers.keys() & values.keys():
            mine, other = self._first[name], values[name]
            if mine.shape != other.shape:
                raise ModuleError(f"{name} is {[*other.shape]} in the run that goes on, here {[*mine.shape]}")
            mine.copy_(other)
        self.reset()

    def replaced(self, found: Mapping[str, Tensor]) -> list[str]:
        """The names under which ``found`` has other tensors."""
        return [name for name, buffer in self._buffers.items() if found.get(name) is not buffer]
