"""The bytes of a mask, counted where the mask is and without making them."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from flash_pl.wire import rice
from flash_pl.wire.masks import CHECKSUM, Encoding, MaskKind, cached_draw, positions_min_size, shortest
from flash_pl.wire.reader import encode_varint


def measure_mask(
    mask: Tensor, sizes: Sequence[int], reference: Tensor | None = None, seed: int | None = None
) -> tuple[MaskKind, int]:
    """Return the kind and the length of the section that ``encode_mask`` returns (with ``compress=False``).

    Counts on the mask's device; only some numbers of each layer are copied to the host. Slower on a CPU.

    >>> measure_mask(torch.arange(1000) % 100 == 0, [600, 400])
    (<MaskKind.POSITIONS: 3>, 15)
    """
    changed = None if reference is None else mask ^ reference.to(mask.device)
    if changed is not None and not bool(changed.any()):
        return MaskKind.REFERENCE, CHECKSUM
    counts = _counts_on_device(mask, sizes)
    full = sum(counts) == len(mask)
    if full or (seed is not None and torch.equal(cached_draw(seed, tuple(sizes), tuple(counts)).to(mask.device), mask)):
        return MaskKind.SEED, 8 + sum(len(encode_varint(count)) for count in counts)
    bitmap = -(-len(mask) // 8)
    encodings = [
        Encoding(MaskKind.POSITIONS, positions_min_size(counts, sizes), lambda: _positions_size(mask, sizes, counts)),
        Encoding(MaskKind.BITMAP, bitmap, lambda: bitmap),
    ]
    if changed is not None:
        changes = _counts_on_device(changed, sizes)
        min_size = CHECKSUM + positions_min_size(changes, sizes)
        encodings.append(
            Encoding(MaskKind.DELTA, min_size, lambda: CHECKSUM + _positions_size(changed, sizes, changes))
        )
    return shortest(encodings, int)


def _counts_on_device(mask: Tensor, sizes: Sequence[int]) -> list[int]:
    counts: list[int] = torch.stack([part.count_nonzero() for part in mask.split(list(sizes))]).tolist()
    return counts


def _positions_size(mask: Tensor, sizes: Sequence[int], counts: Sequence[int]) -> int:
    """The length of ``encode_positions``, given the number of ones of each layer.

    Of a layer's code only the length of the unary stream depends on where the ones are: it has one bit for each gap,
    and as many zeros as the gap has multiples of 2^k.
    """
    device, layers = mask.device, len(sizes)
    layer = torch.arange(layers, device=device)
    layer = layer.repeat_interleave(torch.tensor(list(counts), device=device), output_size=sum(counts))
    starts = torch.tensor([0, *accumulate(sizes)][:-1], device=device)[layer]
    k = torch.tensor([rice.parameter(count, size) for count, size in zip(counts, sizes, strict=True)], device=device)
    positions = mask.nonzero().squeeze(1)
    previous = torch.maximum(torch.cat([starts[:1] - 1, positions[:-1]]), starts - 1)
    zeros = torch.zeros(layers, dtype=torch.int64, device=device)
    zeros.index_add_(0, layer, (positions - previous - 1) >> k[layer])
    return sum(map(rice.size, counts, sizes, zeros.tolist()))
