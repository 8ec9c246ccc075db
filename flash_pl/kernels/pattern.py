"""The active weights of a layer: the lists that the kernels read, and a gradient of the active weights alone."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flash_pl.kernels.geometry import ConvShape, Machine, Pass, make_pass, split_batch
from flash_pl.kernels.library import check_saved, compiled, library


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("outputs", "inputs", "groups", "positions", "backward")),
        ("row", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
    ]


class _Lists(ctypes.Structure):
    _fields_ = [("visits", ctypes.c_void_p), ("block_start", ctypes.c_void_p), ("place", ctypes.c_void_p)]


class Lists:
    """The active weights in the order of a pass over some images of a batch (``lists`` in ``csrc/kernels.h``).

    Attributes:
        first: the first of these images.
        each: the pass.
        number: of each weight in this order, its number in the pattern, int32 ``[count]``.
    """

    def __init__(self, first: int, each: Pass, groups: int, mask: Tensor, count: int) -> None:
        self.first, self.each = first, each
        self._visits = torch.empty(each.blocks * each.rows, 4, dtype=torch.int32)
        self._block_start = torch.empty(each.blocks + 1, dtype=torch.int32)
        self._place, self.number = (torch.empty(count, dtype=torch.int32) for _ in range(2))
        rows, places = (torch.tensor(values, dtype=torch.int32) for values in (each.tap_rows, each.tap_places))
        outputs, inputs = mask.shape[:2]
        layer = _Layer(outputs, inputs, groups, len(rows), each.backward, rows.data_ptr(), places.data_ptr())
        tensors = mask, self._visits, self._block_start, self._place, self.number
        if not compiled().lists(ctypes.addressof(layer), each.address, *(tensor.data_ptr() for tensor in tensors)):
            raise MemoryError("no memory for lists of active weights")
        self._lists = _Lists(*(tensor.data_ptr() for tensor in tensors[1:4]))
        self.address = ctypes.addressof(self._lists)


class SparsePattern:
    """The active weights of one layer. It never changes; when the mask moves, make a new one.

    Args:
        mask: bool ``[outputs, inputs]`` or ``[outputs, inputs, kernel_h, kernel_w]`` on the CPU, in any memory format;
            inputs are those of a group. A copy is kept.

    Raises:
        ValueError: ``mask`` has another dtype, number of dimensions or device.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool or mask.dim() not in (2, 4) or mask.device.type != "cpu":
            described = f"{mask.dtype} {list(mask.shape)} on {mask.device.type}"
            raise ValueError(f"a mask must be a bool tensor of 2 or 4 dimensions on the CPU, not {described}")
        self.shape: tuple[int, ...] = tuple(mask.shape)
        self._mask = mask.clone(memory_format=torch.contiguous_format)
        self._places = self._mask.flatten().nonzero().flatten()  # by output, input, row, column
        self.count = len(self._places)
        self.density = self.count / max(1, mask.numel())
        self._index: dict[tuple[int, ...], Tensor] = {}
        self._lists: dict[tuple[Any, ...], list[Lists]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return SparsePattern, (self._mask,)  # the lists contain addresses of this process

    def masked(self, weight: Tensor) -> Tensor:
        """Return ``weight`` with 0 in place of inactive weights; differentiable."""
        return weight * self._mask.to(weight.dtype)

    def index(self, strides: Sequence[int]) -> Tensor:
        """Return the places of the active weights in a tensor with these strides, int32 ``[count]``, by number.

        Raises:
            ValueError: a place does not fit into 32 bits.
        """
        key = tuple(strides)
        if key not in self._index:
            if sum((length - 1) * step for length, step in zip(self.shape, key, strict=True)) >= 2**31:
                raise ValueError(f"a weight {list(self.shape)} of strides {list(key)} has places beyond 32 bits")
            if key == self._mask.stride():
                places = self._places
            else:
                coordinates = torch.unravel_index(self._places, self.shape)
                steps = zip(coordinates, key, strict=True)
                places = sum((at * step for at, step in steps), torch.zeros_like(self._places))
            self._index[key] = places.int()
        return self._index[key]

    def lists(self, shape: ConvShape, batch: int, backward: bool, machine: Machine) -> list[Lists]:
        """Return the lists of a pass, for each part of the batch."""
        key = shape, batch, backward, machine
        if key not in self._lists:
            # Rounded up to a power of the square root of 2, so that masks that move share few passes.
            density = 2.0 ** (math.ceil(2 * math.log2(max(self.density, 1e-6))) / 2)
            first, lists = 0, []
            for images, lanes in split_batch(batch, machine.vector):
                each = make_pass(shape, backward, images, lanes, density, machine)
                lists.append(Lists(first, each, shape.groups, self._mask, self.count))
                first += images
            self._lists[key] = lists
        return self._lists[key]


class Sink:
    """Takes the gradient of a layer's active weights from the kernels, so that no dense gradient is made.

    Attributes:
        pattern: the pattern of the last gradient; None if there is no gradient.
        gradient: float32 ``[pattern.count]``, summed over all uses of the layer since ``clear``.
    """

    def __init__(self) -> None:
        self.pattern: SparsePattern | None = None
        self.gradient: Tensor | None = None

    def add(self, pattern: SparsePattern, gradient: Tensor) -> None:
        """Add the gradient of one use of the layer."""
        self.pattern = pattern
        self.gradient = gradient if self.gradient is None else self.gradient + gradient

    def step_(self, weight: Tensor, rate: float, decay: float) -> None:
        """Take a step of SGD at the active weights: w <- w - rate (g + decay w).

        Raises:
            ValueError: the weight has another shape, dtype or device than in the forward pass.
        """
        native = library()
        if native is not None and self.pattern is not None and self.gradient is not None:
            check_saved(weight, self.pattern.shape)
            index = self.pattern.index(weight.stride())
            native.update(
                weight.data_ptr(), index.data_ptr(), self.gradient.data_ptr(), self.pattern.count, rate, decay
            )

    def add_to_(self, gradient: Tensor) -> None:
        """Add the gradient to a dense ``gradient`` of the weight's shape, in any memory format without gaps."""
        if self.pattern is not None and self.gradient is not None:
            flat = gradient.as_strided((gradient.numel(),), (1,))
            flat.index_add_(0, self.pattern.index(gradient.stride()), self.gradient)

    def clear(self) -> None:
        """Forget the gradient."""
        self.pattern = self.gradient = None
