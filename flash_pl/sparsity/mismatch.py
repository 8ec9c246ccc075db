"""Sparse mask mismatch: how far two masks are from consensus."""

from collections.abc import Sequence

import torch
from torch import Tensor

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


def pairwise_mismatch(masks: Sequence[Tensor]) -> float:
    """Mean mismatch over all pairs of masks (each bool ``[n]``); 0 for fewer than two."""
    if len(masks) < 2 or all(mask is masks[0] for mask in masks):
        return 0.0
    both = torch.zeros(len(masks), len(masks), dtype=torch.float64, device=masks[0].device)
    for parts in zip(*(mask.split(PIECE) for mask in masks), strict=True):
        stacked = torch.stack(parts).float()
        both += stacked @ stacked.T  # whole numbers below 2^24, exact
    count = both.diagonal()
    either = count[:, None] + count[None, :] - both
    distance = torch.where(either > 0, 1 - both / either.clamp(min=1), 0.0)
    pairs = torch.triu_indices(len(masks), len(masks), offset=1)
    return float(distance[pairs[0], pairs[1]].mean())


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
