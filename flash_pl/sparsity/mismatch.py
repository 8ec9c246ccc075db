"""Mask mismatch: how far masks are from agreement."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.sparsity.layout import Layout

CHUNK = 1 << 20  # weights compared at a time, to limit the memory that the stacked masks of many clients take


def mismatch(a: Tensor, b: Tensor) -> float:
    """Return SM = 1 - |A and B| / |A or B|, the Jaccard distance of two masks; two empty masks have SM = 0.

    >>> mismatch(torch.tensor([True, True, False]), torch.tensor([False, True, True]))
    0.6666666666666667
    """
    if a is b:
        return 0.0
    union = int((a | b).count_nonzero())
    return 1 - int((a & b).count_nonzero()) / union if union else 0.0


def overlaps(layout: Layout, masks: Sequence[Tensor]) -> Tensor:
    """Return the number of weights that each pair of K masks shares, in each layer.

    Args:
        layout: the layout of the arena.
        masks: K masks, bool ``[layout.maskable]``.

    Returns:
        float64 ``[layers, K, K]`` on the CPU; the diagonals hold the number of active weights of each mask.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(3, 1, bias=False))
    >>> overlaps(layout, [torch.tensor([True, True, False]), torch.tensor([False, True, False])]).tolist()
    [[[2.0, 1.0], [1.0, 1.0]]]
    """
    distinct = list({id(mask): mask for mask in masks}.values())  # clients in consensus share one mask object
    place = {id(mask): index for index, mask in enumerate(distinct)}
    shared = torch.zeros(len(layout.layers), *2 * [len(distinct)], dtype=torch.float64, device=masks[0].device)
    for layer, parts in zip(shared, zip(*map(layout.split, distinct), strict=True), strict=True):
        for chunks in zip(*(part.split(CHUNK) for part in parts), strict=True):
            stacked = torch.stack(chunks).float()
            layer += stacked @ stacked.T  # exact: whole numbers below 2^24
    index = [place[id(mask)] for mask in masks]
    return shared.cpu()[:, index][:, :, index]


def distances(shared: Tensor) -> Tensor:
    """Return the mismatch SM of each pair of masks, float64 ``[..., K, K]``.

    Args:
        shared: the result of ``overlaps``, or its sum over layers.

    >>> distances(torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64)).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    active = shared.diagonal(dim1=-2, dim2=-1)
    union = active[..., :, None] + active[..., None, :] - shared
    return torch.where(union > 0, 1 - shared / union.clamp(min=1), 0.0)


def vote_counts(masks: Sequence[Tensor]) -> Tensor:
    """Return how many weights 0, 1, ..., K of the K masks (bool ``[n]``) have, int64 ``[K + 1]`` on the CPU.

    >>> vote_counts([torch.tensor([True, True, False]), torch.tensor([False, True, False])]).tolist()
    [1, 1, 1]
    """
    if not masks:
        return torch.zeros(1, dtype=torch.int64)
    dtype = torch.uint8 if len(masks) < 256 else torch.int32  # one byte per weight if it is enough
    votes = torch.zeros(len(masks[0]), dtype=dtype, device=masks[0].device)
    for mask in masks:
        votes += mask
    return torch.bincount(votes, minlength=len(masks) + 1).cpu()
