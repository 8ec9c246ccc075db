"""A mask as bytes: six encodings, of which the shortest is sent.

The mask of a model is the concatenation of its layers' masks. ``MaskKind`` has the encodings; each becomes a section of
a payload (``flash_pl.wire.codec``):

| kind      | bytes of the section                                                                       |
|-----------|--------------------------------------------------------------------------------------------|
| REFERENCE | 4: CRC-32 of the bitmap of a mask that the receiver has                                    |
| SEED      | 8: seed; for each layer a varint: its number of active weights                             |
| DELTA     | 4: CRC-32 as in REFERENCE; then the positions where the masks differ, as in POSITIONS      |
| POSITIONS | for each layer the positions of its active weights, Rice-coded (``flash_pl.wire.rice``)    |
| BITMAP    | one bit per weight, the first weight in the highest bit of the first byte                  |
| DEFLATED  | the bitmap compressed by zlib                                                              |
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flash_pl.errors import PayloadError
from flash_pl.sparsity import pack_bits, random_k, unpack_bits
from flash_pl.wire import rice
from flash_pl.wire.reader import Reader, encode_varint

CHECKSUM = 4  # bytes of a CRC-32
CHUNK = 1 << 16  # bytes of a bitmap that are looked at together
T = TypeVar("T")


class MaskKind(IntEnum):
    """The encodings of a mask; the values are the numbers in a payload."""

    REFERENCE = 0  # the receiver has this mask
    SEED = 1  # random weights of each layer, drawn from a seed; also the mask with all weights active
    DELTA = 2  # differences to a mask that the receiver has
    POSITIONS = 3  # positions of the active weights
    BITMAP = 4  # one bit per weight
    DEFLATED = 5  # compressed bitmap


def encode_mask(
    mask: Tensor,
    sizes: Sequence[int],
    reference: Tensor | None = None,
    seed: int | None = None,
    compress: bool = False,
) -> tuple[MaskKind, bytes]:
    """Return the kind and the bytes of the section for ``mask``.

    REFERENCE or SEED if one of them is possible, otherwise the shortest of the other encodings.

    Args:
        mask: bool ``[sum(sizes)]``, the layers' masks one after the other.
        sizes: number of weights of each layer.
        reference: a mask that the receiver has.
        seed: of a generator that may have drawn the mask. It is tried, and used only if it draws exactly this mask.
        compress: also try DEFLATED, which takes longer.

    >>> mask = torch.arange(1000) % 100 == 0
    >>> kind, section = encode_mask(mask, [600, 400])
    >>> kind.name, len(section)
    ('POSITIONS', 15)
    >>> decode_mask(kind, Reader(section), [600, 400]).equal(mask)
    True
    """
    bits = pack_bits(mask)
    reference_bits = None if reference is None else pack_bits(reference)
    if reference_bits is not None and np.array_equal(bits.numpy(), reference_bits.numpy()):
        return MaskKind.REFERENCE, _checksum(bits)
    mask = to_cpu(mask, bits)
    counts = _active_counts(mask, sizes)
    full = sum(counts) == len(mask)  # then nothing is drawn, and any seed gives this mask
    seed = 0 if full else seed
    if seed is not None and (full or torch.equal(pack_bits(cached_draw(seed, tuple(sizes), tuple(counts))), bits)):
        return MaskKind.SEED, seed.to_bytes(8, "little") + b"".join(map(encode_varint, counts))
    encodings = [
        Encoding(MaskKind.POSITIONS, positions_min_size(counts, sizes), lambda: encode_positions(mask, sizes)),
        Encoding(MaskKind.BITMAP, len(bits), lambda: bits.numpy().tobytes()),
    ]
    if reference is not None and reference_bits is not None:
        changed, checksum = mask ^ to_cpu(reference, reference_bits), _checksum(reference_bits)
        min_size = len(checksum) + positions_min_size(_active_counts(changed, sizes), sizes)
        encodings.append(Encoding(MaskKind.DELTA, min_size, lambda: checksum + encode_positions(changed, sizes)))
    if compress:
        encodings.append(Encoding(MaskKind.DEFLATED, 0, lambda: zlib.compress(bits.numpy().data, 9)))
    return shortest(encodings, len)


@dataclass(frozen=True)
class Encoding(Generic[T]):
    """A possible encoding of a mask: ``make`` returns its section or its length, at least ``min_size``."""

    kind: MaskKind
    min_size: int
    make: Callable[[], T]


def shortest(encodings: Sequence[Encoding[T]], length: Callable[[T], int]) -> tuple[MaskKind, T]:
    """The kind and the section of the shortest encoding, the first one if several have the same length.

    Encodings whose ``min_size`` is too large are not made at all.
    """
    best: tuple[float, int, T | None] = (math.inf, 0, None)  # length, index of the encoding, section
    for index, encoding in sorted(enumerate(encodings), key=lambda entry: entry[1].min_size):
        if (encoding.min_size, index) < best[:2]:
            section = encoding.make()
            if (length(section), index) < best[:2]:
                best = length(section), index, section
    assert best[2] is not None
    return encodings[best[1]].kind, best[2]


def to_cpu(mask: Tensor, bits: Tensor) -> Tensor:
    """The mask on the CPU; a mask on a GPU is unpacked from its ``bits``, which were copied already."""
    return mask if mask.device.type == "cpu" else unpack_bits(bits, len(mask))


def _active_counts(mask: Tensor, sizes: Sequence[int]) -> list[int]:
    """The number of active weights of each layer."""
    return [int(np.count_nonzero(part.numpy())) for part in mask.split(list(sizes))]


def positions_min_size(counts: Sequence[int], sizes: Sequence[int]) -> int:
    """A lower bound for the bytes of POSITIONS with so many positions in each layer."""
    return sum(map(rice.min_size, counts, sizes))


def decode_mask(
    kind: int,
    reader: Reader,
    sizes: Sequence[int],
    reference: Tensor | None = None,
    max_active: int | None = None,
) -> Tensor:
    """Return the mask in a section, bool ``[sum(sizes)]`` on the CPU.

    Args:
        kind: of the section, a ``MaskKind``.
        reader: of the section's bytes alone.
        sizes: number of weights of each layer.
        reference: the mask against which REFERENCE and DELTA are written.
        max_active: the largest possible number of active weights. A SEED of more is refused before anything is drawn.

    Raises:
        PayloadError: the section is invalid, or it is written against another ``reference``.
    """
    total = sum(sizes)
    if kind in (MaskKind.REFERENCE, MaskKind.DELTA):
        checksum = bytes(reader.take(4))
        if reference is None or checksum != _checksum(pack_bits(reference)):
            raise PayloadError("the mask refers to another mask that this receiver does not have")
        changed = torch.zeros(total, dtype=torch.bool)
        if kind == MaskKind.DELTA:
            changed = _decode_positions(reader, sizes)
        return reference.cpu() ^ changed
    if kind == MaskKind.SEED:
        seed, counts = reader.integer(8), [reader.varint(size) for size in sizes]
        if max_active is not None and sum(counts) > max_active:
            raise PayloadError(too_many(sum(counts), max_active))
        return _draw(seed, sizes, counts)
    if kind == MaskKind.POSITIONS:
        return _decode_positions(reader, sizes)
    if kind == MaskKind.BITMAP:
        return torch.from_numpy(reader.bits(total).view(bool).copy())
    if kind == MaskKind.DEFLATED:
        bits = b"".join(inflate(reader, -(-total // 8)))
        return torch.from_numpy(Reader(bits).bits(total).view(bool).copy())
    raise PayloadError(f"{kind} is not a kind of mask section")


def too_many(active: int, most: int) -> str:
    """The error of a mask with more active weights than there are values."""
    return f"the mask has {active} active weights, but there are at most {most} values"


def encode_positions(mask: Tensor, sizes: Sequence[int]) -> bytes:
    """Return the bytes of POSITIONS."""
    positions = np.flatnonzero(mask.numpy())
    starts = np.array([0, *accumulate(sizes)])
    cuts = np.searchsorted(positions, starts)
    parts: list[bytes] = []
    for layer, (start, stop) in enumerate(pairwise(cuts)):
        parts.append(rice.encode(positions[start:stop] - starts[layer], sizes[layer]))
    return b"".join(parts)


def _decode_positions(reader: Reader, sizes: Sequence[int]) -> Tensor:
    mask: NDArray[np.bool_] = np.zeros(sum(sizes), dtype=bool)
    for start, size in zip([0, *accumulate(sizes)], sizes, strict=False):
        mask[start + rice.decode(reader, size)] = True
    return torch.from_numpy(mask)


def _draw(seed: int, sizes: Sequence[int], counts: Sequence[int]) -> Tensor:
    """The mask that ``ExactDraw`` draws from this seed: ``counts`` random weights of each layer."""
    if sum(counts) == sum(sizes):
        return torch.ones(sum(sizes), dtype=torch.bool)
    draws = torch.Generator().manual_seed(seed & (2**63 - 1))
    return torch.cat(
        [random_k(torch.ones(size, dtype=torch.bool), k, draws) for size, k in zip(sizes, counts, strict=True)]
    )


# For encoding only: the server sends the same first mask to every new client. Decoding does not use the cache, so a
# sender cannot fill the memory of the receiver.
cached_draw = lru_cache(maxsize=1)(_draw)


def inflate(reader: Reader, size: int) -> Iterator[bytes]:
    """Decompress the rest of the section into exactly ``size`` bytes, in chunks; a malicious section makes no more."""
    inflater, data, left = zlib.decompressobj(), bytes(reader.take(reader.left)), size
    try:
        while not inflater.eof:
            chunk = inflater.decompress(data, CHUNK)
            data, left = inflater.unconsumed_tail, left - len(chunk)
            if left < 0 or not (chunk or inflater.eof):
                break
            yield chunk
    except zlib.error as error:
        raise PayloadError(f"the compressed bitmap cannot be decompressed ({error})") from error
    if left or not inflater.eof or inflater.unused_data:
        raise PayloadError(f"the compressed bitmap does not have {size} bytes")


def _checksum(bits: Tensor) -> bytes:
    return zlib.crc32(bits.numpy().data).to_bytes(4, "little")
