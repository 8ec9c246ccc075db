"""The mask section: six ways to say which weights are active, of which the shortest is sent."""

import math
import zlib
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flash_pl.errors import PayloadError
from flash_pl.sparsity import pack_bits, random_k, unpack_bits
from flash_pl.wire import rice
from flash_pl.wire.header import Reader, number


class MaskKind(IntEnum):
    """How a mask is written."""

    REFERENCE = 0  # the receiver has it: a checksum
    SEED = 1  # random with so many weights in each layer: a generator's seed and the numbers
    DELTA = 2  # the positions that differ from a mask that the receiver has, and that one's checksum
    POSITIONS = 3  # the active positions, Rice-coded layer by layer
    BITMAP = 4  # a bit a weight
    DEFLATED = 5  # the bitmap, compressed by zlib


def encode_mask(
    mask: Tensor,
    sizes: Sequence[int],
    reference: Tensor | None = None,
    seed: int | None = None,
    compress: bool = False,
) -> tuple[MaskKind, bytes]:
    """The section for ``mask``: a reference or a seed where there is one, otherwise the shortest.

    Args:
        mask: bool ``[sum(sizes)]``, layers of ``sizes`` one behind the other.
        reference: a mask that the receiver has.
        seed: of a generator that may have drawn the mask; tried, and used only if it did.
        compress: also try zlib on the bitmap, which takes longer.
    """
    bits = pack_bits(mask)
    known = None if reference is None else pack_bits(reference)
    if known is not None and np.array_equal(bits.numpy(), known.numpy()):
        return MaskKind.REFERENCE, _checksum(bits)
    mask = _unpacked(mask, bits)
    counts = _counts(mask, sizes)
    full = sum(counts) == len(mask)  # then nothing is drawn, and any seed does
    seed = 0 if full else seed
    if seed is not None and (full or torch.equal(pack_bits(_drawn(seed, tuple(sizes), tuple(counts))), bits)):
        return MaskKind.SEED, seed.to_bytes(8, "little") + b"".join(map(number, counts))
    ways = [
        _Way(MaskKind.POSITIONS, _least(counts, sizes), lambda: positions(mask, sizes)),
        _Way(MaskKind.BITMAP, len(bits), lambda: bits.numpy().tobytes()),
    ]
    if reference is not None and known is not None:
        changed, checksum = mask ^ _unpacked(reference, known), _checksum(known)
        least = len(checksum) + _least(_counts(changed, sizes), sizes)
        ways.append(_Way(MaskKind.DELTA, least, lambda: checksum + positions(changed, sizes)))
    if compress:
        ways.append(_Way(MaskKind.DEFLATED, 0, lambda: zlib.compress(bits.numpy().data, 9)))
    return _shortest(ways)


class _Way(NamedTuple):
    """A way to write a mask: no fewer bytes than ``least``."""

    kind: MaskKind
    least: int
    write: Callable[[], bytes]


def _shortest(ways: Sequence[_Way]) -> tuple[MaskKind, bytes]:
    """What is written in the fewest bytes, of equals the first way; a way that cannot be it is not tried."""
    found: tuple[float, int, bytes] = (math.inf, 0, b"")  # the length, the place of the way, the section
    for place, way in sorted(enumerate(ways), key=lambda entry: entry[1].least):
        if (way.least, place) < found[:2]:
            section = way.write()
            found = min(found, (len(section), place, section))
    return ways[found[1]].kind, found[2]


def _unpacked(mask: Tensor, bits: Tensor) -> Tensor:
    """A mask on the CPU; from another device its ``bits`` have come already, an eighth of it."""
    return mask if mask.device.type == "cpu" else unpack_bits(bits, len(mask))


def _counts(mask: Tensor, sizes: Sequence[int]) -> list[int]:
    """How many weights of each layer are active."""
    return [int(np.count_nonzero(part.numpy())) for part in mask.split(list(sizes))]


def _least(counts: Sequence[int], sizes: Sequence[int]) -> int:
    """No POSITIONS of so many weights a layer are fewer bytes."""
    return sum(map(rice.least, counts, sizes))


def decode_mask(
    kind: int,
    reader: Reader,
    sizes: Sequence[int],
    reference: Tensor | None = None,
    values: int | None = None,
    draws: bool = True,
) -> Tensor:
    """The mask in a section that ``reader`` holds alone, bool ``[sum(sizes)]`` on the CPU.

    Args:
        values: how many values came with it, if any; a seed of more active weights is not followed.
        draws: a seed may stand for some of the weights, not only for all of them.

    Raises:
        PayloadError: no such section, or it needs another ``reference``.
    """
    total = sum(sizes)
    if kind in (MaskKind.REFERENCE, MaskKind.DELTA):
        known = bytes(reader.take(4))
        if reference is None or known != _checksum(pack_bits(reference)):
            raise PayloadError("the mask is written against one that this receiver does not have")
        changes = torch.zeros(total, dtype=torch.bool)
        if kind == MaskKind.DELTA:
            changes = _mask_of(reader, sizes)
        return reference.cpu() ^ changes
    if kind == MaskKind.SEED:
        seed, counts = reader.integer(8), [reader.number(size) for size in sizes]
        if values is not None and sum(counts) > values:
            raise PayloadError(f"{sum(counts)} active weights, and values of {values} at most")
        if not draws and sum(counts) < total:
            raise PayloadError("the mask is written as a seed, which is for messages only")
        return _draw(seed, sizes, counts)
    if kind == MaskKind.POSITIONS:
        return _mask_of(reader, sizes)
    if kind == MaskKind.BITMAP:
        return torch.from_numpy(reader.bits(total).view(bool).copy())
    if kind == MaskKind.DEFLATED:
        return torch.from_numpy(Reader(_inflate(reader, -(-total // 8))).bits(total).view(bool).copy())
    raise PayloadError(f"no mask section has the number {kind}")


def layer_bytes(kind: MaskKind, mask: Tensor, sizes: Sequence[int]) -> list[int] | None:
    """How many bytes of the section of a mask speak of each layer; None where they cannot be told apart.

    A byte of a bitmap in which two layers meet counts for the first.
    """
    ends = list(accumulate(sizes))
    if kind == MaskKind.BITMAP:
        return [-(-end // 8) - -(-(end - size) // 8) for end, size in zip(ends, sizes, strict=True)]
    if kind == MaskKind.POSITIONS:
        return [len(positions(part, [size])) for part, size in zip(mask.cpu().split(list(sizes)), sizes, strict=True)]
    return None


def _draw(seed: int, sizes: Sequence[int], counts: Sequence[int]) -> Tensor:
    """What ``ExactDraw`` draws from a generator of this seed: ``counts`` weights at random in each layer."""
    if sum(counts) == sum(sizes):
        return torch.ones(sum(sizes), dtype=torch.bool)
    draws = torch.Generator().manual_seed(seed & (2**63 - 1))
    return torch.cat(
        [random_k(torch.ones(size, dtype=torch.bool), k, draws) for size, k in zip(sizes, counts, strict=True)]
    )


_drawn = lru_cache(maxsize=1)(_draw)  # every new client is sent the same mask; nothing that a sender says is kept


def positions(mask: Tensor, sizes: Sequence[int]) -> bytes:
    """The section POSITIONS of a mask."""
    places = np.flatnonzero(mask.numpy())
    starts = np.array([0, *accumulate(sizes)])
    cuts = np.searchsorted(places, starts)
    parts: list[bytes] = []
    for layer, (start, stop) in enumerate(pairwise(cuts)):
        parts.append(rice.encode(places[start:stop] - starts[layer], sizes[layer]))
    return b"".join(parts)


def _mask_of(reader: Reader, sizes: Sequence[int]) -> Tensor:
    mask: NDArray[np.bool_] = np.zeros(sum(sizes), dtype=bool)
    for start, size in zip([0, *accumulate(sizes)], sizes, strict=False):
        mask[start + rice.decode(reader, size)] = True
    return torch.from_numpy(mask)


def _inflate(reader: Reader, size: int) -> bytes:
    """Decompress what is left into exactly ``size`` bytes, never more: the sender may wish us ill."""
    inflater = zlib.decompressobj()
    try:
        packed = reader.take(len(reader.data) - reader.place)
        found = inflater.decompress(packed, max(1, size))  # 0 would mean: without a limit
    except zlib.error as error:
        raise PayloadError(f"a compressed bitmap that cannot be read ({error})") from error
    if len(found) != size or not inflater.eof or inflater.unused_data:
        raise PayloadError("a compressed bitmap of another length")
    return found


def _checksum(bits: Tensor) -> bytes:
    return zlib.crc32(bits.numpy().data).to_bytes(4, "little")
