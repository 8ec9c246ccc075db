"""The shape of a convolution, and how its images lie in the scratch memory of the kernels (``csrc/geometry.h``)."""

import ctypes
from dataclasses import dataclass
from functools import lru_cache

Pair = tuple[int, int]  # height, width

VECTOR = 16  # floats of the widest vector of any instruction set; planes are padded to a multiple of it

# The rule of ``choose_packing``, measured with benchmarks/layers.py.
LANES = 16  # images to interleave: one vector of the widest instruction set
WIDE = 32  # output columns from which vectors over pixels are faster than vectors over images
STACK = 1024  # positions of a plane that are enough to hide the cost of starting a row of weights
SCRATCH = 1 << 22  # floats of scratch memory that interleaved images may take


def pair(value: int | Pair) -> Pair:
    """Return (height, width) from one number for both or from one number for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass(frozen=True)
class ConvShape:
    """A convolution from ``[B, channels, *size]`` to ``[B, outputs, *out_size]``, without dilation and groups."""

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
class Packing:
    """Which images share a plane: ``stack`` images one below the other, or ``lanes`` images interleaved.

    Vectors run over the pixels of a stack, or over the images of the lanes (a multiple of 16). Copying into stacks is
    cheap; lanes leave no part of a vector empty on narrow images.
    """

    stack: int = 1
    lanes: int = 1


def choose_packing(shape: ConvShape, batch: int) -> Packing:
    """Return the fastest packing for a batch of ``batch`` images. It does not depend on the number of threads.

    >>> shape = ConvShape(channels=8, size=(16, 16), outputs=8, kernel=(3, 3), stride=(1, 1), padding=(1, 1))
    >>> choose_packing(shape, 32), choose_packing(shape, 3)
    (Packing(stack=1, lanes=16), Packing(stack=3, lanes=1))
    """
    filled = max(1, -(-batch // LANES)) * LANES
    if shape.size == (1, 1):
        return Packing(lanes=min(2 * LANES, filled))
    narrow = shape.out_size[1] < WIDE
    if narrow and filled <= 1.5 * batch:
        packing = Packing(lanes=LANES)
        if geometry(shape, packing).backward_floats <= SCRATCH:
            return packing
    height, width = shape.out_size
    return Packing(stack=max(1, min(batch, STACK // (height * width))))


class Geometry(ctypes.Structure):
    """The C structure of the same name, whose fields ``csrc/geometry.h`` explains, and facts for the Python side."""

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
    forward_floats: int  # scratch memory of a forward pass
    backward_floats: int  # scratch memory of a backward pass
    addressable: bool  # whether every place fits into the 32 bits of the index lists
    address: int
    __hash__ = object.__hash__  # by identity, as it is compared


@lru_cache(maxsize=1024)
def geometry(shape: ConvShape, packing: Packing) -> Geometry:
    """Return the places of a convolution's images in scratch memory."""
    (height, width), (out_height, out_width) = shape.size, shape.out_size
    axes = tuple(zip(shape.kernel, shape.stride, shape.padding, strict=True))
    reach_h, reach_w = ((kernel - 1) // stride for kernel, stride, _ in axes)
    trim_h, trim_w = (pad if stride == 1 and pad < kernel else 0 for kernel, stride, pad in axes)
    lead_h, lead_w = reach_h - trim_h, reach_w - trim_w
    row, rows = out_width + lead_w, out_height + lead_h
    above = (packing.stack - 1) * rows
    out_plane = _round_up(((above + out_height - 1) * row + out_width) * packing.lanes)
    in_rows, in_columns = out_height + reach_h - 2 * trim_h, out_width + reach_w - 2 * trim_w
    in_plane = _round_up(((above + in_rows - 1) * row + in_columns) * packing.lanes)
    plane = _round_up((reach_h * row + reach_w) * packing.lanes + max(out_plane, in_plane))
    if plane % 256 == 0:
        plane += VECTOR  # planes at a distance of a power of two would compete for the same cache lines
    result = Geometry(
        *(shape.channels, height, width, shape.outputs, out_height, out_width, *shape.stride, *shape.padding),
        *(reach_h, reach_w, trim_h, trim_w, lead_h, lead_w, row, rows, packing.stack, packing.lanes),
        *(plane, out_plane, in_plane),
    )
    result.group, result.phases = packing.stack * packing.lanes, shape.stride[0] * shape.stride[1]
    result.reach = reach_h, reach_w
    pixels, inputs = height * width + out_height * out_width, shape.channels * result.phases
    result.forward_floats = inputs * plane + shape.outputs * out_plane + pixels
    result.backward_floats = (inputs + shape.outputs) * plane + pixels + height * width
    result.addressable = max(inputs, shape.outputs) * plane < 2**31
    result.address = ctypes.addressof(result)
    return result


def _round_up(floats: int) -> int:
    return -(-floats // VECTOR) * VECTOR
