"""How a convolution of one shape lies in the kernels' workspaces, see ``csrc/geometry.h``."""

import ctypes
from dataclasses import dataclass

NEAR = 3 << 18  # floats of the input's planes that the caches keep
LONG = 2048  # positions after which a longer plane wins nothing
VECTOR = 16  # floats of the widest vector: planes are multiples of it, so that no store runs into the next one


class Geometry(ctypes.Structure):
    """``geometry`` of the C side."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "channels height width outputs out_height out_width stride_h stride_w pad_h pad_w reach_h reach_w "
            "trim_h trim_w lead_h lead_w row rows stack lanes plane out_plane in_plane"
        ).split()
    ]


@dataclass(frozen=True)
class Shape:
    """A convolution: input ``[batch, channels, height, width]``, weight ``[outputs, channels, *kernel]``."""

    batch: int
    channels: int
    height: int
    width: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the output."""
        sides = zip((self.height, self.width), self.kernel, self.stride, self.padding, strict=True)
        height, width = ((side + 2 * pad - kernel) // stride + 1 for side, kernel, stride, pad in sides)
        return height, width


def geometry(shape: Shape, stack: int, lanes: int) -> Geometry:
    """The places of ``stack * lanes`` images in a plane; one of the two is 1."""
    reach = [(kernel - 1) // stride for kernel, stride in zip(shape.kernel, shape.stride, strict=True)]
    before = [pad // stride for pad, stride in zip(shape.padding, shape.stride, strict=True)]  # zeros of a row at least
    trim = [min(one, other) for one, other in zip(reach, before, strict=True)]
    lead = [one - other for one, other in zip(reach, trim, strict=True)]
    sides, out = (shape.height, shape.width), shape.out
    last = [
        min((sides[axis] - 1 + shape.padding[axis]) // shape.stride[axis], out[axis] + reach[axis] - 1)
        for axis in (0, 1)
    ]  # the last row and column with a pixel that anybody reads
    rows, row = (max(out[axis] + reach[axis] - before[axis], last[axis] + 1, out[axis] + lead[axis]) for axis in (0, 1))
    between = (stack - 1) * rows * row
    out_plane = _round_up((between + (out[0] - 1) * row + out[1]) * lanes)
    in_plane = _round_up((between + max(0, last[0] - trim[0]) * row + max(0, last[1] - trim[1]) + 1) * lanes)
    # What is read from a position on: as far as a tap reaches, and zeros behind the last row.
    plane = _round_up(max(out_plane, in_plane) + ((reach[0] + 1) * row + reach[1] + 1) * lanes)
    return Geometry(
        shape.channels, *sides, shape.outputs, *out, *shape.stride, *shape.padding, *reach, *trim, *lead,
        row, rows, stack, lanes, plane, out_plane, in_plane,
    )  # fmt: skip


def choose(shape: Shape) -> tuple[int, int]:
    """How many images to stack, or to interleave. A rule and no measurement: the choice shows in the last bits.

    A vector of as many images as it has lanes wastes nothing at the borders, as long as the planes stay near.
    """
    pixels = shape.height * shape.width
    if pixels == 1:  # a linear layer
        return 1, 2 * VECTOR if shape.batch > VECTOR else VECTOR
    if shape.batch < VECTOR // 2 or shape.channels * pixels * VECTOR > NEAR:
        return max(1, min(shape.batch, LONG // pixels)), 1
    return 1, VECTOR


def _round_up(count: int) -> int:
    return -(-count // VECTOR) * VECTOR
