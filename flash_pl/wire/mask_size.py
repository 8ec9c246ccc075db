"""The bytes of a mask, counted where the mask is and without making them."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from flash_pl.sparsity import on_device
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
    counts, *of_changes = _counts(sizes, mask, *([] if changed is None else [changed]))
    if of_changes and not any(of_changes[0]):
        return MaskKind.REFERENCE, CHECKSUM
    full = sum(counts) == len(mask)
    if full or (seed is not None and _draws(seed, sizes, counts, mask)):
        return MaskKind.SEED, 8 + sum(len(encode_varint(count)) for count in counts)
    bitmap = -(-len(mask) // 8)
    encodings = [
        Encoding(MaskKind.POSITIONS, positions_min_size(counts, sizes), lambda: _positions_size(mask, sizes, counts)),
        Encoding(MaskKind.BITMAP, bitmap, lambda: bitmap),
    ]
    if changed is not None:
        changes = of_changes[0]
        min_size = CHECKSUM + positions_min_size(changes, sizes)
        encodings.append(
            Encoding(MaskKind.DELTA, min_size, lambda: CHECKSUM + _positions_size(changed, sizes, changes))
        )
    return shortest(encodings, int)


def _draws(seed: int, sizes: Sequence[int], counts: Sequence[int], mask: Tensor) -> bool:
    """Whether the seed draws this mask."""
    return torch.equal(on_device(cached_draw(seed, tuple(sizes), tuple(counts)), mask.device), mask)


def _counts(sizes: Sequence[int], *masks: Tensor) -> list[list[int]]:
    """The number of ones of each layer in each mask; the host waits once for all."""
    parts = [part.count_nonzero() for mask in masks for part in mask.split(list(sizes))]
    counts: list[list[int]] = torch.stack(parts).view(len(masks), -1).tolist()
    return counts


def _positions_size(mask: Tensor, sizes: Sequence[int], counts: Sequence[int]) -> int:
    """The length of ``encode_positions``, given the number of ones of each layer.

    Of a layer's code only the length of the unary stream depends on where the ones are: it has one bit for each gap,
    and as many zeros as the gap has multiples of 2^k.
    """
    device, layers = mask.device, len(sizes)
    parameters = [rice.parameter(count, size) for count, size in zip(counts, sizes, strict=True)]
    table = torch.tensor([list(counts), [0, *accumulate(sizes)][:-1], parameters], device=device)
    layer = torch.arange(layers, device=device).repeat_interleave(table[0], output_size=sum(counts))
    starts, k = table[1:, layer]
    positions = torch.repeat_interleave(mask.int(), output_size=sum(counts))  # nonzero() would wait for their number
    previous = torch.maximum(torch.cat([starts[:1] - 1, positions[:-1]]), starts - 1)
    zeros = torch.zeros(layers, dtype=torch.int64, device=device)
    zeros.index_add_(0, layer, (positions - previous - 1) >> k)
    return sum(map(rice.size, counts, sizes, zeros.tolist()))
