"""Where each tensor of a module lives in one flat vector, the arena."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flash_pl.errors import ConfigError, ModuleError

KINDS = ["maskable", "parameter", "buffer"]  # of tensors, in the order in which they stand in the arena
ALIGNMENT = 8  # elements: 16 bytes of the smallest floating type, what cuDNN's batch normalization expects of a pointer
MASKABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Slot:
    """The place of one tensor in the arena: ``arena[start:stop]`` seen with the tensor's own shape and strides."""

    name: str
    start: int
    stop: int
    shape: torch.Size
    stride: tuple[int, ...]

    def view(self, flat: Tensor) -> Tensor:
        """The tensor inside ``flat``; writing to it writes to ``flat``."""
        return flat.as_strided(self.shape, self.stride, flat.storage_offset() + self.start)


class Layout:
    """The plan of the arena: maskable weights first, then all other parameters, then floating-point buffers.

    Keeping a model in one vector makes sending, averaging and saving it a single operation, and lets a mask be one flat
    tensor over ``[0, maskable)``. Strides are kept, so a ``channels_last`` weight stays one. Integer buffers and those
    that are not persistent are not part of it: they stay with the module and are neither sent nor averaged.

    The arena has ``size`` elements, the first ``trainable`` of them are parameters, and of these the first ``maskable``
    have masks. Those follow each other without gaps; every tensor behind them starts at a multiple of ``ALIGNMENT``.
    The gaps are 0 and no part of the model, which has ``elements`` elements. ``groups`` are those of each maskable
    layer's convolution, ``behind`` the parameters that the module has after its last maskable weight. A ``plan`` does
    not say; for a layout made from one they are 1, and all that have no mask.

    Args:
        module: the model whose tensors are laid out.
        exclude: layer names or globs (``"fc"``, ``"layer4.*"``) whose weights are never masked.
        exclude_first_last: also leave out the first and the last maskable layer.

    Raises:
        ConfigError: a pattern matches no layer, or nothing is left to mask.
        ModuleError: tensors without a shape yet, of different dtypes or devices, or with elements that overlap or have
            gaps.
    """

    def __init__(self, module: nn.Module, exclude: Sequence[str] = (), exclude_first_last: bool = False) -> None:
        lazy = [name for name, tensor in module.named_parameters() if is_lazy(tensor)]
        if lazy:
            raise ModuleError(f"{lazy[0]} has no shape yet; run the module once on a batch before it is trained")
        maskable = _maskable_names(module, exclude, exclude_first_last)
        parameters = dict(module.named_parameters())
        own = _not_persistent(module)
        buffers = {name: b for name, b in module.named_buffers() if b.is_floating_point() and name not in own}
        kinds = dict.fromkeys(maskable, "maskable")
        kinds |= {name: "parameter" for name in parameters if name not in kinds} | dict.fromkeys(buffers, "buffer")
        tensors = parameters | buffers
        if len(types := {f"{t.dtype} on {t.device}" for t in tensors.values()}) > 1:
            raise ModuleError(f"parameters and float buffers of {', '.join(sorted(types))}: they must be of one kind")
        try:
            self._place([(name, kind, tensors[name].shape, tensors[name].stride()) for name, kind in kinds.items()])
        except ValueError as error:
            raise ModuleError(str(error)) from error
        owners = [module.get_submodule(layer.name.rpartition(".")[0]) for layer in self.layers]
        self.groups = tuple(getattr(owner, "groups", 1) for owner in owners)
        order = list(parameters)
        after = set(order[order.index(self.layers[-1].name) + 1 :])
        self.behind = tuple(slot for slot in self.others if slot.name in after)

    @classmethod
    def from_plan(cls, plan: Sequence[Sequence[Any]]) -> "Layout":
        """The layout whose ``plan`` this is, without its module.

        Raises:
            ValueError: no maskable tensor, kinds in another order, a name that comes twice, elements that overlap or
                have gaps.
        """
        kinds = [kind for _, kind, _, _ in plan]
        if kinds[:1] != KINDS[:1] or kinds != sorted(kinds, key=KINDS.index):
            raise ValueError("a layout has maskable tensors, and they come first, then parameters, then buffers")
        if len({name for name, _, _, _ in plan}) < len(plan):
            raise ValueError("two tensors of one name")
        layout = cls.__new__(cls)
        layout._place(plan)
        return layout

    @property
    def plan(self) -> list[list[Any]]:
        """Of each slot ``[name, kind, shape, stride]``, in plain values; kinds are those of ``KINDS``."""
        rows = zip(self.slots, self._kinds, strict=True)
        return [[slot.name, kind, list(slot.shape), list(slot.stride)] for slot, kind in rows]

    def _place(self, rows: Sequence[Sequence[Any]]) -> None:
        """Put the tensors of a plan's ``rows`` one behind the other."""
        slots, start = [], 0
        for name, kind, shape, stride in rows:
            if not _is_dense(shape, stride):
                raise ValueError(f"{name}: its elements overlap or have gaps in memory; make it contiguous first")
            if kind != "maskable":
                start += -start % ALIGNMENT
            slots.append(Slot(name, start, start + prod(shape), torch.Size(shape), tuple(stride)))
            start = slots[-1].stop
        self.slots, self._kinds = tuple(slots), [kind for _, kind, _, _ in rows]
        self.layers = self.slots[: self._kinds.count("maskable")]
        self.others = self.slots[len(self.layers) :]
        self.groups, self.behind = (1,) * len(self.layers), self.others
        self.trainable = self.slots[-1 - self._kinds.count("buffer")].stop
        self.size = start
        self.maskable = self.layers[-1].stop
        self.elements = self.maskable + sum(slot.stop - slot.start for slot in self.others)
        self.sizes = torch.tensor([layer.stop - layer.start for layer in self.layers])

    def flatten_(self, module: nn.Module) -> Tensor:
        """Move the module's tensors into a new arena, re-point them there and return it (1-d, ``size`` elements)."""
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        first = tensors[self.slots[0].name]
        arena = torch.zeros(self.size, dtype=first.dtype, device=first.device)
        for slot in self.slots:
            slot.view(arena).copy_(tensors[slot.name].detach())
            tensors[slot.name].data = slot.view(arena)
        return arena

    def slot_of_largest(self, arena: Tensor) -> str:
        """The name of the tensor that holds the arena's largest magnitude, or its first NaN."""
        place = int(arena.abs().nan_to_num(nan=float("inf")).argmax())
        return next(slot.name for slot in self.slots if place < slot.stop)

    def split(self, flat: Tensor) -> Iterator[Tensor]:
        """The maskable layers of an arena or a mask, each as a flat view."""
        return (flat[layer.start : layer.stop] for layer in self.layers)

    def read_others(self, flat: Tensor) -> Tensor:
        """All that is not maskable, without the gaps, ``[elements - maskable]``."""
        parts = [flat[slot.start : slot.stop] for slot in self.others]
        return torch.cat(parts) if parts else flat[:0]

    def write_others_(self, flat: Tensor, values: Tensor) -> None:
        """Put what ``read_others`` returned into ``flat``."""
        parts = values.split([slot.stop - slot.start for slot in self.others])
        for slot, part in zip(self.others, parts, strict=True):
            flat[slot.start : slot.stop] = part

    def counts(self, mask: Tensor) -> Tensor:
        """Active weights per layer, int64 ``[layers]``, on the CPU."""
        return torch.stack([part.count_nonzero() for part in self.split(mask)]).cpu()

    def densities(self, mask: Tensor) -> Tensor:
        """Layer densities d_l = nnz(M_l) / n_l, float64 ``[layers]``, on the CPU."""
        return self.counts(mask).double() / self.sizes


def _maskable_names(module: nn.Module, exclude: Sequence[str], exclude_first_last: bool) -> list[str]:
    layers = [name for name, layer in module.named_modules() if isinstance(layer, MASKABLE)]
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ConfigError("exclude", pattern, f"a name or glob of one of the layers {', '.join(layers)}")
    if exclude_first_last:
        layers = layers[1:-1]
    kept = [name for name in layers if not any(fnmatchcase(name, pattern) for pattern in exclude)]
    # A weight that two layers share appears once among the parameters; a frozen one does not train, so it stays whole.
    parameters = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    weights = [name for name in (f"{layer}.weight".lstrip(".") for layer in kept) if name in parameters]
    if not weights:
        key, value = ("exclude", list(exclude)) if exclude else ("exclude_first_last", exclude_first_last)
        raise ConfigError(key, value, "a choice that leaves at least one Linear or Conv layer to mask")
    return weights


def _not_persistent(module: nn.Module) -> set[str]:
    """The names of buffers that the module does not save either: masks of attention, tables that it computes."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        for name in part._non_persistent_buffers_set
    }


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the elements fill one block of memory exactly once, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted((st, sz) for st, sz in zip(strides, shape, strict=True) if sz > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def layers_of(module: nn.Module, names: Iterable[str]) -> dict[str, list[nn.Module]]:
    """The layers of a module whose weight is the parameter of a name: several where they share it.

    >>> tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> tied[1].weight = tied[0].weight
    >>> len(layers_of(tied, ["0.weight"])["0.weight"])
    2
    """
    found: dict[str, list[nn.Module]] = {name: [] for name in names}
    by_weight = {id(module.get_parameter(name)): layers for name, layers in found.items()}
    for layer in module.modules():
        if (layers := by_weight.get(id(getattr(layer, "weight", None)))) is not None:
            layers.append(layer)
    return found
