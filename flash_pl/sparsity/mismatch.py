"""Sparse mask mismatch: how far two masks are from consensus."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.sparsity.layout import Layout

PIECE = 1 << 20  # weights that are compared at a time: many clients' masks side by side take memory


def mismatch(a: Tensor, b: Tensor) -> float:
    """SM = 1 - |A and B| / |A or B|, the Jaccard distance; 0 for two empty masks.

    >>> mismatch(torch.tensor([True, True, False]), torch.tensor([False, True, True]))
    0.6666666666666667
    """
    if a is b:
        return 0.0
    union = int((a | b).count_nonzero())
    return 1 - int((a & b).count_nonzero()) / union if union else 0.0


def overlaps(layout: Layout, masks: Sequence[Tensor]) -> Tensor:
    """How many weights each pair of K masks (each bool ``[maskable]``) shares in each layer, float64 ``[layers, K, K]``
    on the CPU; on the diagonals how many each mask has."""
    distinct = list({id(mask): mask for mask in masks}.values())  # of a mask in consensus there is one
    place = {id(mask): index for index, mask in enumerate(distinct)}
    shared = torch.zeros(len(layout.layers), *2 * [len(distinct)], dtype=torch.float64, device=masks[0].device)
    for layer, parts in zip(shared, zip(*map(layout.split, distinct), strict=True), strict=True):
        for pieces in zip(*(part.split(PIECE) for part in parts), strict=True):
            stacked = torch.stack(pieces).float()
            layer += stacked @ stacked.T  # whole numbers below 2^24, exact
    index = [place[id(mask)] for mask in masks]
    return shared.cpu()[:, index][:, :, index]


def distances(shared: Tensor) -> Tensor:
    """The mismatch SM of each pair of masks, float64 ``[..., K, K]``, given how many weights they share, as
    ``overlaps`` counts them or their sum over layers."""
    held = shared.diagonal(dim1=-2, dim2=-1)
    either = held[..., :, None] + held[..., None, :] - shared
    return torch.where(either > 0, 1 - shared / either.clamp(min=1), 0.0)


def vote_counts(masks: Sequence[Tensor]) -> Tensor:
    """How many weights are held by 0, 1, ..., K of K masks (each bool ``[n]``), int64 ``[K + 1]`` on the CPU.

    >>> vote_counts([torch.tensor([True, True, False]), torch.tensor([False, True, False])]).tolist()
    [1, 1, 1]
    """
    if not masks:
        return torch.zeros(1, dtype=torch.int64)
    few = len(masks) < 256  # a byte is then enough, and a quarter of the memory to go through
    holders = torch.zeros(len(masks[0]), dtype=torch.uint8 if few else torch.int32, device=masks[0].device)
    for mask in masks:
        holders += mask
    return torch.bincount(holders, minlength=len(masks) + 1).cpu()
