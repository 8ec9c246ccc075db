"""The tensors of a client's module while a run has them: views into the arena, and the user's again after the run."""

import re

import lightning as L
import torch
from torch import Tensor
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim import Optimizer

from flash_pl.client.ownership import Strides, give_back_
from flash_pl.sparsity import Layout


class BoundTensors:
    """The parameters and buffers of a module that are views into an arena.

    Args:
        module: its tensors are views into ``arena`` already.
        layout: of the arena.
        arena: ``[layout.size]``.
    """

    def __init__(self, module: L.LightningModule, layout: Layout, arena: Tensor) -> None:
        self.module, self.layout, self.arena = module, layout, arena
        tensors = self._tensors()
        self._bound = {slot.name: tensors[slot.name] for slot in layout.slots}
        self._modes = [(part, part.training) for part in module.modules()]
        self._frozen = [(parameter, parameter.requires_grad) for parameter in module.parameters()]

    def _tensors(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters()) | dict(self.module.named_buffers())

    def restore_modes(self) -> None:
        """Give layers and parameters the modes that they had at the start; gradients become None."""
        for parameter, requires_grad in self._frozen:
            parameter.requires_grad_(requires_grad).grad = None
        for part, training in self._modes:
            part.training = training

    def replaced(self) -> str | None:
        """The name of the first tensor that is another one than at the start, or None."""
        tensors = self._tensors()
        for slot in self.layout.slots:
            tensor, (owner, _, name) = tensors.get(slot.name), slot.name.rpartition(".")
            if (
                tensor is None
                or tensor is not self._bound[slot.name]
                or not _same_memory(tensor, slot.view(self.arena))
                or name in vars(self.module.get_submodule(owner))  # an attribute that hides the tensor
            ):
                return slot.name
        return None

    def not_sent(self, optimizer: Optimizer) -> Tensor | None:
        """The first parameter of ``optimizer`` that is not in the arena, or None."""
        first, last = self.arena.data_ptr(), self.arena.data_ptr() + self.arena.nbytes
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        outside = (each for each in parameters if each.numel() and not first <= each.data_ptr() < last)
        return next(outside, None)

    @torch.no_grad()
    def weight_norm_of_nothing(self) -> str | None:
        """The name of the first parameter that ``weight_norm`` turns into NaN, or None.

        ``weight_norm`` divides by the norm of an output's weights, or of what its ``dim`` says. The norm is 0 if the
        mask prunes them all.
        """
        for slot in self.layout.layers:
            if new := re.fullmatch(r"(.*)\.parametrizations\.(\w+)\.original1", slot.name):
                weight = getattr(self.module.get_submodule(new[1]), new[2])
            elif old := re.fullmatch(r"(.*)\.(\w+)_v", slot.name):
                layer = self.module.get_submodule(old[1])
                hooks = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]
                weight = next((hook.compute_weight(layer) for hook in hooks if hook.name == old[2]), None)
            else:
                continue
            if weight is not None and not weight.isfinite().all():
                return slot.name
        return None

    def give_back_(self, strides: Strides) -> None:
        """Give all tensors of the module memory of their own."""
        give_back_(self.module, strides)

    def take_(self) -> None:
        """Make the tensors views into the arena again, after ``give_back_``."""
        tensors = self._tensors()
        for slot in self.layout.slots:
            view = slot.view(self.arena)
            tensors[slot.name].data = view.copy_(tensors[slot.name].detach())


def _same_memory(first: Tensor, second: Tensor) -> bool:
    return (
        first.data_ptr() == second.data_ptr()
        and all(getattr(first, name) == getattr(second, name) for name in ("shape", "dtype", "device"))
        and first.stride() == second.stride()
    )
