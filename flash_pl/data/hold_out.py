"""Validation samples from the training set, so that choices need not look at the test set."""

from collections.abc import Sequence

import torch
from torch import Tensor


def hold_out(parts: Sequence[Tensor], share: float, generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Split every client's samples in two.

    Args:
        parts: each client's samples, indices into the training set.
        share: of each part that is held out, rounded to whole samples; one sample always stays for training.
        generator: draws which.

    Returns:
        What each client trains on, in the order of ``parts``, and what it holds out.
    """
    kept, held = [], []
    for part in parts:
        count = min(round(share * len(part)), len(part) - 1)
        out = torch.zeros(len(part), dtype=torch.bool)
        out[torch.randperm(len(part), generator=generator)[:count]] = True
        kept.append(part[~out])
        held.append(part[out])
    return kept, held
