"""Which weights of a layer are active, as lists for the kernels."""

import ctypes
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flash_pl.kernels.library import library, pointer
from flash_pl.kernels.plan import Geometry, Shape, choose, geometry

Ints = NDArray[np.int32]


class Lists(ctypes.Structure):
    """``lists`` of the C side."""

    _fields_ = [("rows", ctypes.c_int64), ("start", ctypes.c_void_p), ("offset", ctypes.c_void_p)]


class Plan(NamedTuple):
    """A pattern in the workspaces of one shape; the arrays are what the lists point to."""

    geometry: Geometry
    out: Lists
    into: Lists
    arrays: tuple[Ints, ...]
    out_counts: list[int]
    forward_floats: int
    backward_floats: int


class Pattern:
    """The active weights of a Conv2d or Linear; it never changes, a mask that has moved is another pattern.

    Args:
        mask: bool ``[outputs, channels, kernel_h, kernel_w]`` or ``[outputs, inputs]``, with the weight's strides.

    Attributes:
        count: number of active weights.
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape, self.stride = tuple(mask.shape), mask.stride()
        places = mask.nonzero().cpu().numpy()
        self._at: tuple[NDArray[np.int64], ...] = tuple(places.T)
        if len(self.shape) == 2:
            self._at = (*self._at, np.zeros(len(places), dtype=np.int64), np.zeros(len(places), dtype=np.int64))
        self.count = len(places)
        self._plans: dict[Shape, Plan] = {}

    @property
    def density(self) -> float:
        """Active share."""
        return self.count / max(1, int(np.prod(self.shape)))

    @cached_property
    def index(self) -> Ints:
        """Where each active weight lies in the weight's memory, output by output."""
        strides = self.stride if len(self.stride) == 4 else (*self.stride, 0, 0)
        return sum(at * stride for at, stride in zip(self._at, strides, strict=True)).astype(np.int32)  # type: ignore[union-attr]

    def plan(self, shape: Shape) -> Plan:
        """The lists for inputs of one shape; made once."""
        if shape not in self._plans:
            self._plans[shape] = self._plan(shape)
        return self._plans[shape]

    def update_(self, weight: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        """A step of SGD: w <- w - rate (g + decay w) for the active weights, whose ``gradient`` is ``[count]``."""
        lib = library()
        assert lib is not None
        lib.flash_pl_update(pointer(weight), self.index.ctypes.data, pointer(gradient), self.count, rate, decay)

    def into_order(self, stride: tuple[int, int]) -> NDArray[np.intp]:
        """The active weights by input channel and phase, as positions among the active weights."""
        _, channel, kh, kw = self._at
        phase = kh % stride[0] * stride[1] + kw % stride[1]
        return np.lexsort((self._at[0], phase, channel)) if stride != (1, 1) else np.argsort(channel, kind="stable")

    def _plan(self, shape: Shape) -> Plan:
        g = geometry(shape, *choose(shape))
        output, channel, kh, kw = self._at
        phases = g.stride_h * g.stride_w
        phase, up, along = kh % g.stride_h * g.stride_w + kw % g.stride_w, kh // g.stride_h, kw // g.stride_w
        row = channel * phases + phase
        forward = row * g.plane + (up * g.row + along) * g.lanes
        backward = output * g.plane + ((g.reach_h - up) * g.row + g.reach_w - along) * g.lanes
        order = self.into_order(shape.stride)
        arrays = (
            _starts(output, g.outputs),
            forward.astype(np.int32),
            _starts(row, g.channels * phases),
            backward[order].astype(np.int32),
            order.astype(np.int32),
        )
        pixels, out_pixels = g.height * g.width, g.out_height * g.out_width
        x_planes = g.channels * phases * g.plane
        return Plan(
            g,
            Lists(g.outputs, arrays[0].ctypes.data, arrays[1].ctypes.data),
            Lists(g.channels * phases, arrays[2].ctypes.data, arrays[3].ctypes.data),
            arrays,
            np.diff(arrays[0]).tolist(),
            x_planes + g.outputs * g.out_plane + pixels + out_pixels + SLACK,
            x_planes + g.outputs * g.plane + g.channels * phases * g.in_plane + 2 * pixels + out_pixels + SLACK,
        )


SLACK = 256  # floats that may be read behind the last plane


def _starts(rows: NDArray[np.int64], count: int) -> Ints:
    """Where each row begins, and the end: ``[count + 1]``."""
    return np.concatenate([[0], np.bincount(rows, minlength=count).cumsum()]).astype(np.int32)
