"""Which weights of a layer are active, as the index lists that the kernels walk."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flash_pl.kernels.geometry import Geometry


class _Lists(ctypes.Structure):
    _fields_ = [("rows", ctypes.c_int64), ("start", ctypes.c_void_p), ("offset", ctypes.c_void_p)]


class Rows:
    """Active weights by row, and where each finds its input; ``start`` int32 ``[rows + 1]``, ``offset`` ``[count]``."""

    def __init__(self, start: Tensor, offset: Tensor) -> None:
        self.start, self.offset = start, offset
        self._lists = _Lists(len(start) - 1, start.data_ptr(), offset.data_ptr())
        self.address = ctypes.addressof(self._lists)


class SparsePattern:
    """The active weights of one layer; immutable, to be made anew when the mask moves.

    Args:
        mask: bool ``[outputs, inputs]`` or ``[outputs, inputs, kernel_h, kernel_w]``, on the CPU; a copy is not kept.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool or mask.dim() not in (2, 4) or mask.device.type != "cpu":
            raise ValueError(f"a mask is a bool tensor of 2 or 4 dimensions on the CPU, not {_described(mask)}")
        self.shape: tuple[int, ...] = tuple(mask.shape)
        self._active = mask.nonzero().t().int()  # by output, input, row, column: as the weights lie
        self._active_t: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.count = self._active.shape[1]
        self.density = self.count / max(1, mask.numel())
        self._start = _starts(self._active[0], self.shape[0])
        self._rows: dict[Geometry, Rows] = {}
        self._rows_t: dict[Geometry, Rows] = {}
        self._index: dict[tuple[int, ...], Tensor] = {}
        self._order_t: dict[tuple[int, int], Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return SparsePattern, (self._mask(),)  # the lists hold addresses

    def masked(self, weight: Tensor) -> Tensor:
        """``weight`` with zeros in place of what is not active; differentiable."""
        return weight * self._mask().to(weight.dtype)

    def index(self, strides: Sequence[int]) -> Tensor:
        """Where the active weights lie in a tensor of these strides: int32 ``[count]``, by output channel.

        Raises:
            ValueError: such a tensor has places beyond 32 bits.
        """
        key = tuple(strides)
        if key not in self._index:
            if sum((length - 1) * step for length, step in zip(self.shape, key, strict=True)) >= 2**31:
                raise ValueError(f"a weight {list(self.shape)} of strides {list(key)} has places beyond 32 bits")
            self._index[key] = _flat(self._active, key)
        return self._index[key]

    def order_by_input(self, stride: tuple[int, int]) -> Tensor:
        """The order of ``rows_by_input``, as places in that of ``rows``; int32 ``[count]``."""
        if stride not in self._order_t:
            self._order_t[stride] = self._by_input(stride)[0].int()
        return self._order_t[stride]

    def rows(self, geometry: Geometry) -> Rows:
        """By output channel, reading the planes of the input."""
        if geometry not in self._rows:
            _, channel, kh, kw = self._taps()
            sh, sw = geometry.stride_h, geometry.stride_w
            plane = (channel * sh + kh % sh) * sw + kw % sw
            offset = plane * geometry.plane + (kh // sh * geometry.row + kw // sw) * geometry.lanes
            self._rows[geometry] = Rows(self._start, offset.contiguous())
        return self._rows[geometry]

    def rows_by_input(self, geometry: Geometry) -> Rows:
        """By phase of input channel, reading the planes of the output's gradient."""
        if geometry not in self._rows_t:
            sh, sw = geometry.stride_h, geometry.stride_w
            order, start = self._by_input((sh, sw))
            output, _, kh, kw = (each[order] for each in self._taps())
            back = (geometry.reach[0] - kh // sh) * geometry.row + geometry.reach[1] - kw // sw
            self._rows_t[geometry] = Rows(start, (output * geometry.plane + back * geometry.lanes).contiguous())
        return self._rows_t[geometry]

    def shares(self, parts: int) -> list[tuple[int, int]]:
        """The output channels in at most ``parts`` ranges of about as many active weights each."""
        bounds = (torch.arange(1, parts) * self.count // parts).int()  # the products do not fit 32 bits
        cuts = torch.searchsorted(self._start, bounds).tolist()
        ends = [0, *cuts, self.shape[0]]
        return [(first, last) for first, last in zip(ends, ends[1:], strict=False) if first < last]

    def _mask(self) -> Tensor:
        mask = torch.zeros(self.shape, dtype=torch.bool)
        mask[tuple(self._active.long())] = True
        return mask

    def _taps(self) -> Sequence[Tensor]:
        if len(self._active) == 4:
            return self._active.unbind()
        zero = torch.zeros_like(self._active[0])
        return (*self._active.unbind(), zero, zero)

    def _by_input(self, stride: tuple[int, int]) -> tuple[Tensor, Tensor]:
        if stride not in self._active_t:
            _, channel, kh, kw = self._taps()
            row = (channel * stride[0] + kh % stride[0]) * stride[1] + kw % stride[1]
            in_order, order = row.sort(stable=True)
            self._active_t[stride] = order, _starts(in_order, self.shape[1] * stride[0] * stride[1])
        return self._active_t[stride]


def _flat(active: Tensor, strides: Sequence[int]) -> Tensor:
    return sum((place * step for place, step in zip(active, strides, strict=True)), torch.zeros_like(active[0]))


def _starts(rows: Tensor, count: int) -> Tensor:
    """Where each of ``count`` rows begins in an ascending list of row numbers."""
    return torch.searchsorted(rows.contiguous(), torch.arange(count + 1, dtype=torch.int32)).int()


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} on {tensor.device.type}"
