"""Test samples for every client, of the classes that it trains on."""

from collections.abc import Sequence

import torch
from torch import Tensor


def deal_alike(train: Sequence[Tensor], test: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Deal test samples out in the proportions in which the clients hold the classes.

    Of every class a client gets the share of the test samples that it has of the training samples, rounded to whole
    samples; a class that nobody trains on is left out. With few test samples some clients get none.

    Args:
        train: each client's training labels, int64.
        test: test labels, int64 ``[n]``.
        generator: draws which samples a client gets.

    Returns:
        Indices into ``test`` for each client; every sample of a class that is trained on belongs to exactly one.
    """
    classes = 1 + max(int(labels.max()) for labels in (*train, test) if len(labels))
    held = torch.stack([labels.bincount(minlength=classes) for labels in train]).double()
    order = torch.randperm(len(test), generator=generator)
    dealt: list[list[Tensor]] = [[] for _ in train]
    for label in range(classes):
        if held[:, label].sum() > 0:
            pool = order[test[order] == label]
            cuts = (held[:, label].cumsum(0) / held[:, label].sum() * len(pool)).round().long()
            for parts, part in zip(dealt, pool.tensor_split(cuts[:-1]), strict=True):
                parts.append(part)
    return [torch.cat(parts) for parts in dealt]
