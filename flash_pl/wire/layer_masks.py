"""A mask as the positions of its active weights: what a small file of a huge sparse model takes little memory for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from flash_pl.errors import PayloadError
from flash_pl.wire import rice
from flash_pl.wire.masks import CHUNK, MaskKind, inflate, too_many
from flash_pl.wire.reader import Reader


@dataclass(frozen=True)
class LayerMask:
    """The mask of a layer by its active weights.

    Attributes:
        positions: of the active weights in the flat layer, increasing, int64 ``[active]``.
        nbytes: bytes of the layer in the section; None if the encoding does not separate layers.
    """

    positions: NDArray[np.int64]
    nbytes: int | None


def decode_layers(kind: int, reader: Reader, sizes: Sequence[int], max_active: int) -> list[LayerMask]:
    """Return the masks of all layers in a section that stands alone, without a table of all weights.

    The memory is that of the section and of the positions, however large the layers are. A mask that is written against
    another one is refused, and one that must be drawn: another version of torch may draw another mask.

    Args:
        kind: of the section, a ``MaskKind``.
        reader: of the section's bytes alone.
        sizes: number of weights of each layer.
        max_active: the largest possible number of active weights.

    >>> import torch
    >>> from flash_pl.wire import encode_mask
    >>> mask = torch.arange(1000) % 300 == 7
    >>> kind, section = encode_mask(mask, [600, 400])
    >>> [layer.positions.tolist() for layer in decode_layers(kind, Reader(section), [600, 400], max_active=4)]
    [[7, 307], [7, 307]]

    Raises:
        PayloadError: the section is invalid or of another kind.
    """
    if kind in (MaskKind.REFERENCE, MaskKind.DELTA):
        raise PayloadError("the mask refers to another mask that this receiver does not have")
    if kind == MaskKind.SEED:
        _, counts = reader.integer(8), [reader.varint(size) for size in sizes]
        if counts != list(sizes):
            raise PayloadError("the mask is given as a seed, which only messages between server and clients may do")
        if sum(counts) > max_active:
            raise PayloadError(too_many(sum(counts), max_active))
        return [LayerMask(np.arange(size), None) for size in sizes]
    if kind == MaskKind.POSITIONS:
        layers, left = [], max_active
        for size in sizes:
            start = reader.offset
            positions = rice.decode(reader, size, left)
            left -= len(positions)
            layers.append(LayerMask(positions, reader.offset - start))
        return layers
    total = sum(sizes)
    if kind == MaskKind.BITMAP:
        found = _ones(iter([reader.take(-(-total // 8))]), total, max_active)
    elif kind == MaskKind.DEFLATED:
        found = _ones(inflate(reader, -(-total // 8)), total, max_active)
    else:
        raise PayloadError(f"{kind} is not a kind of mask section")
    ends = list(accumulate(sizes))
    starts = [end - size for end, size in zip(ends, sizes, strict=True)]
    cuts = np.searchsorted(found, [0, *ends])
    # A byte with bits of two layers counts for the first of them.
    lengths: list[int | None] = [None] * len(sizes)
    if kind == MaskKind.BITMAP:
        lengths = [-(-end // 8) - -(-start // 8) for start, end in zip(starts, ends, strict=True)]
    parts = zip(pairwise(cuts), starts, lengths, strict=True)
    return [LayerMask(found[first:last] - start, length) for (first, last), start, length in parts]


def _ones(chunks: Iterator[bytes | memoryview], total: int, most: int) -> NDArray[np.int64]:
    """The positions of the ones in a bitmap of ``total`` bits, at most ``most``."""
    parts: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    offset = active = 0
    for chunk in chunks:
        for start in range(0, len(chunk), CHUNK):
            piece = np.frombuffer(chunk[start : start + CHUNK], dtype=np.uint8)
            ones = np.flatnonzero(np.unpackbits(piece)) + offset
            offset, active = offset + 8 * len(piece), active + len(ones)
            if active > most:
                raise PayloadError(too_many(active, most))
            parts.append(ones)
    positions = np.concatenate(parts)
    if len(positions) and positions[-1] >= total:
        raise PayloadError("the unused bits of the last byte are not 0")
    return positions
