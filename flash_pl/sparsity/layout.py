"""The layout of a model in one flat vector, the arena, and which of its weights can be masked."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flash_pl.errors import ModuleError
from flash_pl.sparsity.maskable import CONVOLUTIONS, TRANSPOSED, maskable_names, own_weight

KINDS = ["maskable", "parameter", "buffer", "frozen"]  # kinds of tensors, in their order in the arena
ALIGNMENT = 8  # elements; 16 bytes of the smallest floating-point type, as cuDNN's batch normalization requires


@dataclass(frozen=True)
class Slot:
    """The place of one tensor in the arena: ``arena[start:stop]``, viewed with the tensor's shape and strides."""

    name: str
    start: int
    stop: int
    shape: torch.Size
    stride: tuple[int, ...]

    def view(self, flat: Tensor) -> Tensor:
        """Return the tensor as a view of ``flat``; writing to the view writes to ``flat``."""
        return flat.as_strided(self.shape, self.stride, flat.storage_offset() + self.start)


class Layout:
    """Where each tensor of a model lies in the arena: maskable weights, other parameters, buffers, frozen parameters.

    With the whole model in one vector, sending, averaging and saving it are single operations, and a mask is one flat
    tensor over ``[0, maskable)``. Each tensor keeps its strides, so a ``channels_last`` weight stays ``channels_last``.
    Only persistent floating-point buffers are included. Other buffers stay in the module; they are neither sent nor
    averaged. Frozen parameters (``requires_grad=False``), such as the base under adapters, never change. Every client
    has them from the start: they are not sent and not averaged.

    The maskable weights follow each other without gaps. Every other tensor starts at a multiple of ``ALIGNMENT``
    elements; the gaps before these tensors hold 0 and do not count as elements of the model.

    Args:
        module: the model.
        exclude: names or glob patterns of layers (``"fc"``, ``"layer4.*"``) or weights that are never masked.
        exclude_first_last: whether the first and the last maskable layer are never masked either.
        include: names or glob patterns of more layers or parameters to mask, see ``maskable_names``.

    Attributes:
        slots: the slots of all tensors, in the order of the arena.
        layers: the slots of the maskable weights, one per maskable layer.
        others: the slots of all other tensors.
        sizes: number of weights of each maskable layer, int64 ``[layers]``.
        costs: what each maskable layer costs if it is dense, ``[layers]``: its ``sizes``; with ``density_of=flops`` its
            forward multiply-adds, float64. The target density is a share of their sum.
        groups: ``groups`` of each maskable layer (1 if the layer is not a convolution).
        types: class of each maskable layer.
        scale_invariant: of each maskable layer whether its scale does not change the loss, as before a normalization
            (``scale_invariant_layers``); False until a run has tried the model.
        trained: number of elements of all parameters that are not frozen, maskable or not.
        after_last_layer: the slots of the parameters that the module defines after its last maskable weight.
        maskable: number of maskable weights; they are ``arena[:maskable]``.
        trainable: end of the parameters that are not frozen; they are ``arena[:trainable]``, gaps included.
        frozen: start of the frozen parameters; they are ``arena[frozen:]``, gaps included.
        size: length of the arena, gaps included.
        elements: number of elements of the model, gaps excluded.
        sent: number of these elements that are not frozen; a dense message has all of them.

    Raises:
        ConfigError: a pattern matches no layer, or no layer is left to mask.
        ModuleError: a tensor has no shape yet, has elements that overlap or have gaps in memory, or differs from
            another tensor in dtype or device.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    >>> layout = Layout(model, exclude=["2"])
    >>> [layer.name for layer in layout.layers], layout.maskable, layout.elements
    (['0.weight'], 108, 146)
    >>> arena = layout.flatten_(model)  # from now on the model's tensors are views of the arena
    >>> mask = torch.arange(layout.maskable) < 27
    >>> arena[: layout.maskable] *= mask
    >>> int(model[0].weight.count_nonzero()), layout.densities(mask).tolist()
    (27, [0.25])
    """

    def __init__(
        self,
        module: nn.Module,
        exclude: Sequence[str] = (),
        exclude_first_last: bool = False,
        include: Sequence[str] = (),
    ) -> None:
        lazy = [name for name, tensor in module.named_parameters() if is_lazy(tensor)]
        if lazy:
            raise ModuleError(f"{lazy[0]} has no shape yet; run the module once on a batch before training")
        maskable = maskable_names(module, include, exclude, exclude_first_last)
        parameters = dict(module.named_parameters())
        not_persistent = _not_persistent(module)
        buffers = {n: b for n, b in module.named_buffers() if b.is_floating_point() and n not in not_persistent}
        kinds = dict.fromkeys(maskable, "maskable")
        others = [name for name in parameters if name not in kinds]
        kinds |= {name: "parameter" for name in others if parameters[name].requires_grad}
        kinds |= dict.fromkeys(buffers, "buffer")
        kinds |= {name: "frozen" for name in others if not parameters[name].requires_grad}
        tensors = parameters | buffers
        if len(types := {f"{t.dtype} on {t.device}" for t in tensors.values()}) > 1:
            raise ModuleError(
                f"parameters and floating-point buffers are {', '.join(sorted(types))}; "
                "they must have one dtype and be on one device"
            )
        try:
            self._place([(name, kind, tensors[name].shape, tensors[name].stride()) for name, kind in kinds.items()])
        except ValueError as error:
            raise ModuleError(str(error)) from error
        owners = [module.get_submodule(_layer_name(layer.name)) for layer in self.layers]
        convolutions = (*CONVOLUTIONS, *TRANSPOSED)
        self.groups = tuple(int(owner.groups) if isinstance(owner, convolutions) else 1 for owner in owners)
        self.types: tuple[type[nn.Module], ...] = tuple(type(owner) for owner in owners)
        self.trained = sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad)
        names = list(parameters)
        after = set(names[names.index(self.layers[-1].name) + 1 :])
        self.after_last_layer = tuple(slot for slot in self.others if slot.name in after)

    @classmethod
    def from_specification(cls, specification: Sequence[Sequence[Any]]) -> "Layout":
        """Return the layout with this ``specification``, without its module.

        A specification knows nothing of the kinds of layers and of the module's own order: ``groups`` are all 1,
        ``types`` and ``scale_invariant`` say nothing, and ``after_last_layer`` holds every parameter and buffer without
        a mask.

        Raises:
            ValueError: there is no maskable tensor, the kinds are in another order, two tensors have one name, or the
                elements of a tensor overlap or have gaps.
        """
        kinds = [kind for _, kind, _, _ in specification]
        if kinds[:1] != KINDS[:1] or not set(kinds) <= set(KINDS) or kinds != sorted(kinds, key=KINDS.index):
            raise ValueError(
                "a layout must have maskable tensors; they come first, then parameters, then buffers, then frozen ones"
            )
        if len({name for name, _, _, _ in specification}) < len(specification):
            raise ValueError("two tensors have the same name")
        layout = cls.__new__(cls)
        layout._place(specification)
        return layout

    @property
    def specification(self) -> list[list[Any]]:
        """``[name, kind, shape, stride]`` of each slot, in plain values; ``kind`` is one of ``KINDS``."""
        rows = zip(self.slots, self._kinds, strict=True)
        return [[slot.name, kind, list(slot.shape), list(slot.stride)] for slot, kind in rows]

    def _place(self, specification: Sequence[Sequence[Any]]) -> None:
        """Place the tensors of a specification one after the other."""
        slots, start = [], 0
        for name, kind, shape, stride in specification:
            if not _is_dense(shape, stride):
                raise ValueError(f"{name}: its elements overlap or have gaps in memory; make it contiguous first")
            if kind != "maskable":
                start += -start % ALIGNMENT
            slots.append(Slot(name, start, start + prod(shape), torch.Size(shape), tuple(stride)))
            start = slots[-1].stop
        self.slots, self._kinds = tuple(slots), [kind for _, kind, _, _ in specification]
        self.layers = self.slots[: self._kinds.count("maskable")]
        self.others = self.slots[len(self.layers) :]
        self.groups, self.types = (1,) * len(self.layers), (nn.Module,) * len(self.layers)
        self.scale_invariant = (False,) * len(self.layers)
        self.after_last_layer = self.others
        frozen = self.slots[len(self.slots) - self._kinds.count("frozen") :]
        self.trainable = self.slots[-1 - self._kinds.count("buffer") - len(frozen)].stop
        self.size = start
        self.frozen = frozen[0].start if frozen else start
        self.maskable = self.layers[-1].stop
        self.elements = self.maskable + sum(slot.stop - slot.start for slot in self.others)
        self.sent = self.elements - sum(slot.stop - slot.start for slot in frozen)
        self.trained = self.elements - sum(s.stop - s.start for s in self.slots if s.start >= self.trainable)
        self.sizes = torch.tensor([layer.stop - layer.start for layer in self.layers])
        self.costs = self.sizes

    def flatten_(self, module: nn.Module) -> Tensor:
        """Move the module's tensors into a new arena and return the arena (``[size]``).

        Afterward the module's tensors are views of the arena.
        """
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        first = tensors[self.slots[0].name]
        arena = torch.zeros(self.size, dtype=first.dtype, device=first.device)
        for slot in self.slots:
            slot.view(arena).copy_(tensors[slot.name].detach())
            tensors[slot.name].data = slot.view(arena)
        return arena

    def slot_of_largest(self, arena: Tensor) -> str:
        """Return the name of the tensor with the arena's largest magnitude; NaN counts as the largest."""
        index = int(arena.abs().nan_to_num(nan=float("inf")).argmax())
        return next(slot.name for slot in self.slots if index < slot.stop)

    def split(self, flat: Tensor) -> Iterator[Tensor]:
        """Return the maskable layers of an arena or a mask, each as a flat view."""
        return (flat[layer.start : layer.stop] for layer in self.layers)

    def by_output(self, slot: Slot, flat: Tensor) -> Tensor:
        """Return a maskable weight as ``[groups, outputs of a group, inputs of a group, ...]``, a view of ``flat``.

        A transposed convolution stores its weight with the inputs first. A vector counts as outputs of one input each.

        >>> layout = Layout(nn.ConvTranspose2d(6, 4, kernel_size=3, groups=2))
        >>> layout.by_output(layout.layers[0], torch.zeros(layout.size)).shape
        torch.Size([2, 2, 3, 3, 3])
        """
        index, weight = self.layers.index(slot), slot.view(flat)
        weight = weight.reshape(-1, 1) if weight.ndim < 2 else weight
        weight = weight.unflatten(0, (self.groups[index], -1))
        return weight.transpose(1, 2) if issubclass(self.types[index], TRANSPOSED) else weight

    def read_others(self, flat: Tensor) -> Tensor:
        """Return a copy of all elements that are neither maskable nor frozen, without gaps, ``[sent - maskable]``."""
        parts = [flat[slot.start : slot.stop] for slot in self._sent_others()]
        return torch.cat(parts) if parts else flat[:0]

    def write_others_(self, flat: Tensor, values: Tensor) -> None:
        """Write ``values``, as ``read_others`` returns them, into the arena ``flat``."""
        slots = self._sent_others()
        for slot, part in zip(slots, values.split([slot.stop - slot.start for slot in slots]), strict=True):
            flat[slot.start : slot.stop] = part

    def _sent_others(self) -> list[Slot]:
        return [slot for slot in self.others if slot.start < self.frozen]

    def changed_frozen(self, before: Tensor, after: Tensor) -> str | None:
        """Return the name of a frozen parameter that differs between two arenas; None if there is none."""
        if torch.equal(before[self.frozen :], after[self.frozen :]):
            return None
        slots = (slot for slot in self.others if slot.start >= self.frozen)
        return next((slot.name for slot in slots if not torch.equal(slot.view(before), slot.view(after))), None)

    def counts(self, mask: Tensor) -> Tensor:
        """Return the number of active weights in each layer, int64 ``[layers]`` on the CPU."""
        return torch.stack([part.count_nonzero() for part in self.split(mask)]).cpu()

    def densities(self, mask: Tensor) -> Tensor:
        """Return the layer densities d_l = nnz(M_l) / n_l, float64 ``[layers]`` on the CPU."""
        return self.counts(mask).double() / self.sizes

    @property
    def prices(self) -> Tensor:
        """The cost of one weight of each layer, c_l / n_l, float64 ``[layers]``; 1 if the budget counts weights."""
        return torch.where(self.sizes > 0, self.costs.double() / self.sizes.clamp(min=1), 1.0)

    def cost(self, mask: Tensor) -> float:
        """Return what a mask costs, in the unit of ``costs``: the sum of its weights' prices."""
        return self.whole(float((self.counts(mask) * self.prices).sum()))

    def whole(self, cost: float) -> float:
        """Round a cost to a whole number of weights; a cost in multiply-adds stays as it is."""
        return cost if self.costs.is_floating_point() else round(cost)

    def budget(self, density: float) -> float:
        """Return what a mask of this target density may cost: d times the cost of the dense layers, in whole weights.

        >>> layout = Layout(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)))
        >>> layout.budget(0.1)  # weights
        30
        >>> layout.costs = torch.tensor([2000.0, 500.0])  # multiply-adds
        >>> layout.budget(0.1), layout.prices.tolist()
        (250.0, [10.0, 5.0])
        """
        return self.whole(density * float(self.costs.sum()))


def _layer_name(parameter: str) -> str:
    """Return the name of the layer that owns a parameter, itself or by a parametrization."""
    return parameter.rpartition(".")[0].partition("parametrizations.")[0].removesuffix(".")


def _not_persistent(module: nn.Module) -> set[str]:
    """Return the names of buffers that the module does not save, such as attention masks and precomputed tables."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        for name in part._non_persistent_buffers_set
    }


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether the elements fill one block of memory exactly once, in any order of the dimensions."""
    expected = 1
    for stride, size in sorted((st, sz) for st, sz in zip(strides, shape, strict=True) if sz > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def layers_of(module: nn.Module, names: Iterable[str]) -> dict[str, list[nn.Module]]:
    """Return for each parameter name the layers that have this parameter as their ``weight``.

    Layers that share a weight are all in the list of its name. The list is empty for a parameter with another name, as
    attention, recurrent layers and layers under ``weight_norm`` have them.

    >>> tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> tied[1].weight = tied[0].weight
    >>> layers_of(tied, ["0.weight"])
    {'0.weight': [Linear(in_features=2, out_features=2, bias=True), Linear(in_features=2, out_features=2, bias=True)]}
    """
    layers: dict[str, list[nn.Module]] = {name: [] for name in names}
    by_weight = {id(module.get_parameter(name)): layers[name] for name in layers}
    for layer in module.modules():
        if (sharing := by_weight.get(id(own_weight(layer)))) is not None:
            sharing.append(layer)
    return layers
