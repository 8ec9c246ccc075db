"""The shape of a convolution, and how its passes are divided into tiles and blocks (``pass`` in ``csrc/kernels.h``)."""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Pair = tuple[int, int]  # height, width

# Vectors of a tile: (rows, vectors of a row). csrc/conv.h compiles the same tiles; with few registers only the first.
NARROW = (
    (1, 1),
    (1, 2),
    (1, 3),
    (1, 4),
    (1, 5),
    (1, 6),
    (1, 7),
    (1, 8),
    (2, 1),
    (2, 2),
    (2, 3),
    (2, 4),
    (4, 1),
    (4, 2),
)
WIDE = (*NARROW, (2, 5), (2, 6), (2, 7), (2, 8), (3, 5), (4, 3), (4, 4))
MANY_REGISTERS = 32

# The rule of ``_block``, measured with benchmarks/speed/layers.py.
NEAR = 8192  # floats of a buffer that stays in the first cache beside what a row needs
FAR = 49152  # floats of a buffer that leaves the second cache to the tiles
VISIT = 16  # active weights that are enough to hide what it costs to load and store a row's tile


def pair(value: int | Pair) -> Pair:
    """Return (height, width) from one number for both or from one number for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass(frozen=True)
class ConvShape:
    """A convolution from ``[B, channels, *size]`` to ``[B, outputs, *out_size]``, without dilation."""

    channels: int
    size: Pair
    outputs: int
    kernel: Pair
    stride: Pair
    padding: Pair
    groups: int = 1

    @property
    def out_size(self) -> Pair:
        height, width = (
            (size + 2 * pad - kernel) // stride + 1
            for size, kernel, stride, pad in zip(self.size, self.kernel, self.stride, self.padding, strict=True)
        )
        return height, width


@dataclass(frozen=True)
class Machine:
    """The instruction set that the kernels use: floats of a vector, and vectors that the registers hold."""

    vector: int
    registers: int

    @property
    def tiles(self) -> tuple[Pair, ...]:
        return WIDE if self.registers >= MANY_REGISTERS else NARROW


def split_batch(batch: int, vector: int) -> list[tuple[int, int]]:
    """Return (images, images of a vector) of the parts of a batch: whole vectors, and the rest.

    A small rest fills a vector with several of its pixels.

    >>> split_batch(40, 16), split_batch(10, 16), split_batch(32, 8)
    ([(32, 16), (8, 8)], [(10, 16)], [(32, 8)])
    """
    rest = batch % vector
    parts = [(batch - rest, vector)] if batch > rest else []
    return [*parts, (rest, 1 << (rest - 1).bit_length())] if rest else parts


class Pass(ctypes.Structure):
    """The C structure of the same name, whose fields ``csrc/kernels.h`` explains, and facts for the Python side."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "batch lanes channels height width stride_h stride_w phases_h phases_w pad_h pad_w rows out_height "
            "out_width step_h step_w shift_h shift_w grid_h grid_w tile_h tile_w buffer_h buffer_w block blocks"
        ).split()
    ]
    rows: int
    blocks: int
    backward: bool
    tap_rows: list[int]  # of each position of the kernel: the phase of the target that it adds to
    tap_places: list[int]  # of each position of the kernel: where it reads in the buffer of a source channel
    tiles: int
    scratch: int  # floats of a thread's memory
    address: int
    __hash__ = object.__hash__  # by identity, as it is compared


@dataclass(frozen=True)
class _Axis:
    """One axis of a pass: how target positions and source pixels belong together."""

    size: int  # source pixels
    stride: int  # source pixels from position to position
    phases: int  # phases of the source that weights read
    pad: int  # zeros before the source
    step: int  # target pixels from position to position
    grid: int  # positions of the target
    reach: int  # source positions that a target position reads besides its own
    rows: tuple[int, ...]  # of each position of the kernel: the phase of the target
    phase: tuple[int, ...]  # of each position of the kernel: the phase of the source
    offset: tuple[int, ...]  # of each position of the kernel: positions from the target's to what it reads


def _forward_axis(size: int, kernel: int, stride: int, pad: int) -> _Axis:
    """y[o] = sum_k w[k] x[o stride + k - pad]."""
    out, taps = (size + 2 * pad - kernel) // stride + 1, range(kernel)
    zeros = (0,) * kernel
    phase, offset = tuple(k % stride for k in taps), tuple(k // stride for k in taps)
    return _Axis(size, stride, min(stride, kernel), pad, 1, out, (kernel - 1) // stride, zeros, phase, offset)


def _backward_axis(size: int, kernel: int, stride: int, pad: int) -> _Axis:
    """dx[i] = sum_k w[k] dy[(i + pad - k) / stride], for the k that leave no remainder: one phase of i + pad."""
    out, taps = (size + 2 * pad - kernel) // stride + 1, range(kernel)
    # Phase p of the padded input has its rows p, p + stride, ...; the first that is no padding is number skipped[p].
    skipped = [max(0, -((p - pad) // stride)) for p in range(stride)]
    counts = [-((p + skip * stride - pad - size) // stride) for p, skip in enumerate(skipped)]
    least, reach = min(skipped), (kernel - 1) // stride
    offset = tuple(skipped[k % stride] - least + reach - k // stride for k in taps)
    rows, pad_dy = tuple(k % stride for k in taps), reach - least
    return _Axis(out, 1, 1, pad_dy, stride, max(0, *counts), max(skipped) - least + reach, rows, (0,) * kernel, offset)


@lru_cache(maxsize=1024)
def make_pass(shape: ConvShape, backward: bool, batch: int, lanes: int, density: float, machine: Machine) -> Pass:
    """Return how a pass over ``batch`` images is divided.

    Args:
        shape: of the convolution.
        backward: the gradient of the input instead of the output.
        batch: images.
        lanes: images of a vector; fewer than its floats if there are fewer images.
        density: of the weights, rounded by the caller so that it has few values.
        machine: the instruction set.
    """
    axis = _backward_axis if backward else _forward_axis
    h, w = (axis(*each) for each in zip(shape.size, shape.kernel, shape.stride, shape.padding, strict=True))
    channels, outputs = (shape.outputs, shape.channels) if backward else (shape.channels, shape.outputs)
    out_height, out_width = shape.size if backward else shape.out_size
    rows = outputs * h.step * w.step
    weights = density * shape.outputs * shape.channels * math.prod(shape.kernel) / shape.groups
    lanes = _lanes(h.grid * w.grid, batch, lanes, machine.vector)
    tile_h, tile_w = _tile((h, w), lanes, weights / channels, machine)
    buffer = tile_h + h.reach, tile_w + w.reach
    plane = math.prod(buffer) * lanes
    block = _block(channels, h.phases * w.phases * plane, weights / rows / channels * shape.groups)
    result = Pass(
        *(batch, lanes, channels, h.size, w.size, h.stride, w.stride, h.phases, w.phases, h.pad, w.pad, rows),
        *(out_height, out_width, h.step, w.step, *(shape.padding if backward else (0, 0)), h.grid, w.grid),
        *(tile_h, tile_w, *buffer, block, -(-channels // block)),
    )
    result.backward = backward
    positions = [(i, j) for i in range(shape.kernel[0]) for j in range(shape.kernel[1])]
    result.tap_rows = [h.rows[i] * w.step + w.rows[j] for i, j in positions]
    result.tap_places = [
        (h.phase[i] * w.phases + w.phase[j]) * plane + (h.offset[i] * buffer[1] + w.offset[j]) * lanes
        for i, j in positions
    ]
    result.tiles = -(-batch // lanes) * -(-h.grid // tile_h) * -(-w.grid // tile_w)
    vectors = tile_h * -(-tile_w * lanes // machine.vector)
    channel = block * h.phases * w.phases * plane
    result.scratch = 2 * rows + channel + rows * vectors * machine.vector + 6 * machine.vector + 64
    result.address = ctypes.addressof(result)
    return result


def _lanes(positions: int, batch: int, lanes: int, vector: int) -> int:
    """Return the images of a tile: several vectors of them if there are few positions, so that sums need not wait."""
    if lanes < vector or positions >= 8:
        return lanes
    most = min(8 // positions, batch // vector) if positions else 1
    return vector * max(k for k in range(1, max(1, most) + 1) if batch // vector % k == 0)


def _tile(axes: Sequence[_Axis], lanes: int, weights: float, machine: Machine) -> Pair:
    """Return rows and columns of the fastest tile: least time for its products and for what it copies, per channel."""
    h, w = axes

    def cost(rows: int, columns: int, vectors: int) -> float:
        tiles = -(-h.grid // rows) * -(-w.grid // columns)
        copied = h.phases * w.phases * (rows + h.reach) * (columns + w.reach) * max(1.0, lanes / machine.vector)
        return tiles * (weights * (vectors + 2) + 2 * copied)

    best: tuple[float, int, int] | None = None
    for rows, vectors in machine.tiles:
        columns = min(vectors * machine.vector // lanes, max(1, w.grid))
        if not columns or -(-columns * lanes // machine.vector) != vectors or (rows > 1 and rows > h.grid):
            continue
        candidate = cost(rows, columns, rows * vectors), rows, columns
        best = min(best, candidate) if best else candidate
    assert best is not None, "a tile of one vector always fits"
    return best[1], best[2]


def _block(channels: int, floats: int, weights: float) -> int:
    """Return how many source channels to copy at once.

    Args:
        channels: of the source.
        floats: of a channel's buffer.
        weights: active weights of a row per channel.
    """
    wanted = max(NEAR // floats, min(math.ceil(VISIT / max(weights, 1e-9)), FAR // floats), 1)
    return -(-channels // -(-channels // min(channels, wanted)))
