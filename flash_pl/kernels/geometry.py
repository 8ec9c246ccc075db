"""The shape of a convolution and how its images lie in the kernels' scratch memory (``csrc/geometry.h``)."""

import ctypes
from dataclasses import dataclass
from functools import lru_cache

Pair = tuple[int, int]  # height, width

VECTOR = 16  # floats to which planes are rounded up: the widest vector of any instruction set


@dataclass(frozen=True)
class ConvShape:
    """A convolution from ``[B, channels, *size]`` to ``[B, outputs, *out_size]``; no dilation, one group."""

    channels: int
    size: Pair
    outputs: int
    kernel: Pair
    stride: Pair
    padding: Pair

    @property
    def out_size(self) -> Pair:
        height, width = (
            (size + 2 * pad - kernel) // stride + 1
            for size, kernel, stride, pad in zip(self.size, self.kernel, self.stride, self.padding, strict=True)
        )
        return height, width


@dataclass(frozen=True)
class Plan:
    """Which images share a plane: ``stack`` one below the other, or ``lanes`` (a multiple of 16) interleaved.

    Vectors run over the pixels of a stack, or over the images of the lanes. Stacks are copied cheaply; lanes waste
    nothing on narrow images.
    """

    stack: int = 1
    lanes: int = 1


class Geometry(ctypes.Structure):
    """The C structure of the same name; see ``csrc/geometry.h`` for its fields."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "channels height width outputs out_height out_width stride_h stride_w pad_h pad_w reach_h reach_w "
            "trim_h trim_w lead_h lead_w row rows stack lanes plane out_plane in_plane"
        ).split()
    ]
    channels: int
    outputs: int
    out_height: int
    out_width: int
    row: int
    lanes: int
    plane: int
    group: int  # images of a plane
    phases: int  # planes of an input channel
    reach: Pair
    forward_floats: int  # scratch memory of a forward pass, and of a backward pass
    backward_floats: int
    addressable: bool  # all places fit the index lists' 32 bits
    address: int
    __hash__ = object.__hash__  # by identity, as it is compared


def _up(floats: int) -> int:
    return -(-floats // VECTOR) * VECTOR


@lru_cache(maxsize=1024)
def geometry(shape: ConvShape, plan: Plan) -> Geometry:
    """Where ``plan`` puts the images of a convolution."""
    (height, width), (out_height, out_width) = shape.size, shape.out_size
    axes = tuple(zip(shape.kernel, shape.stride, shape.padding, strict=True))
    reach_h, reach_w = ((kernel - 1) // stride for kernel, stride, _ in axes)
    trim_h, trim_w = (pad if stride == 1 and pad < kernel else 0 for kernel, stride, pad in axes)
    lead_h, lead_w = reach_h - trim_h, reach_w - trim_w
    row, rows = out_width + lead_w, out_height + lead_h
    above = (plan.stack - 1) * rows
    out_plane = _up(((above + out_height - 1) * row + out_width) * plan.lanes)
    in_rows, in_columns = out_height + reach_h - 2 * trim_h, out_width + reach_w - 2 * trim_w
    in_plane = _up(((above + in_rows - 1) * row + in_columns) * plan.lanes)
    plane = _up((reach_h * row + reach_w) * plan.lanes + max(out_plane, in_plane))
    if plane % 256 == 0:
        plane += VECTOR  # powers of two compete for the same lines of the cache
    result = Geometry(
        *(shape.channels, height, width, shape.outputs, out_height, out_width, *shape.stride, *shape.padding),
        *(reach_h, reach_w, trim_h, trim_w, lead_h, lead_w, row, rows, plan.stack, plan.lanes),
        *(plane, out_plane, in_plane),
    )
    result.group, result.phases = plan.stack * plan.lanes, shape.stride[0] * shape.stride[1]
    result.reach = reach_h, reach_w
    pixels, inputs = height * width + out_height * out_width, shape.channels * result.phases
    result.forward_floats = inputs * plane + shape.outputs * out_plane + pixels
    result.backward_floats = (inputs + shape.outputs) * plane + pixels + height * width
    result.addressable = max(inputs, shape.outputs) * plane < 2**31
    result.address = ctypes.addressof(result)
    return result


def pair(value: int | Pair) -> Pair:
    """One number for both axes, or a number for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
