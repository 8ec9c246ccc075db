"""The active weights of a layer: the index lists that the kernels read, and a gradient of the active weights alone."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flash_pl.kernels.geometry import Geometry
from flash_pl.kernels.library import check_saved, library


class _Lists(ctypes.Structure):
    _fields_ = [("rows", ctypes.c_int64), ("start", ctypes.c_void_p), ("offset", ctypes.c_void_p)]


class Rows:
    """The active weights by row: weights ``start[r]`` to ``start[r + 1]`` belong to row r (``lists`` in ``kernels.h``).

    Args:
        start: int32 ``[rows + 1]``.
        offset: where each weight finds its input, int32 ``[count]``.
    """

    def __init__(self, start: Tensor, offset: Tensor) -> None:
        self.start, self.offset = start, offset
        self._lists = _Lists(len(start) - 1, start.data_ptr(), offset.data_ptr())
        self.address = ctypes.addressof(self._lists)


class SparsePattern:
    """The active weights of one layer. It never changes; when the mask moves, make a new one.

    Args:
        mask: bool ``[outputs, inputs]`` or ``[outputs, inputs, kernel_h, kernel_w]`` on the CPU. The tensor itself is
            not kept.

    Raises:
        ValueError: ``mask`` has another dtype, number of dimensions or device.

    >>> pattern = SparsePattern(torch.tensor([[True, False, False], [True, False, True]]))
    >>> pattern.shape, pattern.count, pattern.density
    ((2, 3), 3, 0.5)
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool or mask.dim() not in (2, 4) or mask.device.type != "cpu":
            described = f"{mask.dtype} {list(mask.shape)} on {mask.device.type}"
            raise ValueError(f"a mask must be a bool tensor of 2 or 4 dimensions on the CPU, not {described}")
        self.shape: tuple[int, ...] = tuple(mask.shape)
        self._active = mask.nonzero().t().int()  # by output, input, row, column: the order of contiguous weights
        self._active_t: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.count = self._active.shape[1]
        self.density = self.count / max(1, mask.numel())
        self._start = _starts(self._active[0], self.shape[0])
        self._rows: dict[Geometry, Rows] = {}
        self._rows_t: dict[Geometry, Rows] = {}
        self._index: dict[tuple[int, ...], Tensor] = {}
        self._order_t: dict[tuple[int, int], Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return SparsePattern, (self._mask(),)  # the lists contain addresses of this process

    def masked(self, weight: Tensor) -> Tensor:
        """Return ``weight`` with 0 in place of inactive weights; differentiable."""
        return weight * self._mask().to(weight.dtype)

    def index(self, strides: Sequence[int]) -> Tensor:
        """Return the places of the active weights in a tensor with these strides, int32 ``[count]``, by output channel.

        Raises:
            ValueError: a place does not fit into 32 bits.
        """
        key = tuple(strides)
        if key not in self._index:
            if sum((length - 1) * step for length, step in zip(self.shape, key, strict=True)) >= 2**31:
                raise ValueError(f"a weight {list(self.shape)} of strides {list(key)} has places beyond 32 bits")
            steps = zip(self._active, key, strict=True)
            self._index[key] = sum((place * step for place, step in steps), torch.zeros_like(self._active[0]))
        return self._index[key]

    def rows(self, geometry: Geometry) -> Rows:
        """Return the weights by output channel, with offsets into the planes of the input."""
        if geometry not in self._rows:
            _, channel, kh, kw = self._taps()
            sh, sw = geometry.stride_h, geometry.stride_w
            plane = (channel * sh + kh % sh) * sw + kw % sw
            offset = plane * geometry.plane + (kh // sh * geometry.row + kw // sw) * geometry.lanes
            self._rows[geometry] = Rows(self._start, offset.contiguous())
        return self._rows[geometry]

    def rows_by_input(self, geometry: Geometry) -> Rows:
        """Return the weights by phase of input channel, with offsets into the planes of the output's gradient."""
        if geometry not in self._rows_t:
            sh, sw = geometry.stride_h, geometry.stride_w
            order, start = self._by_input((sh, sw))
            output, _, kh, kw = (each[order] for each in self._taps())
            back = (geometry.reach[0] - kh // sh) * geometry.row + geometry.reach[1] - kw // sw
            self._rows_t[geometry] = Rows(start, (output * geometry.plane + back * geometry.lanes).contiguous())
        return self._rows_t[geometry]

    def order_by_input(self, stride: tuple[int, int]) -> Tensor:
        """Return the order of ``rows_by_input`` as places in the order of ``rows``, int32 ``[count]``."""
        if stride not in self._order_t:
            self._order_t[stride] = self._by_input(stride)[0].int()
        return self._order_t[stride]

    def output_ranges(self, parts: int) -> list[tuple[int, int]]:
        """Split the output channels into at most ``parts`` ranges with about the same number of active weights."""
        bounds = (torch.arange(1, parts) * self.count // parts).int()  # the products need 64 bits
        cuts = torch.searchsorted(self._start, bounds).tolist()
        ends = [0, *cuts, self.shape[0]]
        return [(first, last) for first, last in zip(ends, ends[1:], strict=False) if first < last]

    def _mask(self) -> Tensor:
        mask = torch.zeros(self.shape, dtype=torch.bool)
        mask[tuple(self._active.long())] = True
        return mask

    def _taps(self) -> Sequence[Tensor]:
        """Return output, input, kernel row and kernel column of each active weight."""
        if len(self._active) == 4:
            return self._active.unbind()
        zero = torch.zeros_like(self._active[0])
        return (*self._active.unbind(), zero, zero)

    def _by_input(self, stride: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the order of the weights by phase of input channel, and where each phase starts in that order."""
        if stride not in self._active_t:
            _, channel, kh, kw = self._taps()
            row = (channel * stride[0] + kh % stride[0]) * stride[1] + kw % stride[1]
            in_order, order = row.sort(stable=True)
            self._active_t[stride] = order, _starts(in_order, self.shape[1] * stride[0] * stride[1])
        return self._active_t[stride]


def _starts(rows: Tensor, count: int) -> Tensor:
    """Return where each of ``count`` rows starts in an ascending list of row numbers, and the end of the last row."""
    return torch.searchsorted(rows.contiguous(), torch.arange(count + 1, dtype=torch.int32)).int()


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
