"""Exact choices among the weights of a layer: the k largest, or k at random."""

from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.permutation import first_of_permutation


def top_k(scores: Tensor, k: int, among_equals: Tensor | None = None) -> Tensor:
    """A bool mask with exactly ``k`` ones at the largest of the 1-d ``scores``.

    Equal scores go by ``among_equals``, further scores of the same shape, and in the end by position: ``torch.topk``
    promises no order among equals, which would let two devices disagree on a mask. Scores that are not a number count
    as -1, less than any magnitude.
    """
    if k <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if k >= scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    scores = scores.nan_to_num(nan=-1.0, posinf=torch.inf, neginf=-torch.inf)
    threshold = kth_largest(scores, k)
    chosen = scores >= threshold
    if int(chosen.count_nonzero()) == k:
        return chosen
    chosen = scores > threshold
    ties, missing = _places(scores == threshold), k - int(chosen.count_nonzero())
    chosen[ties[:missing] if among_equals is None else ties[top_k(among_equals[ties], missing)]] = True
    return chosen


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The ``k``-th largest (from 1) of the 1-d ``values``, none of them NaN, as a tensor without dimensions."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        return torch.tensor(_kth_largest(values.detach().numpy(), k))
    return values.topk(k, sorted=False).values.min()


def _kth_largest(values: np.ndarray, k: int) -> np.generic:
    """By numpy's partition, a fifth of the time of torch.topk or torch.kthvalue, and less for large k.

    It degenerates where many values are equal, such as zeros after a ReLU: those stay out.
    """
    least = values.min()
    above = values > least
    count = np.count_nonzero(above)
    if count < k:
        return least
    if count < 0.9 * values.size:
        values = values[above]
    return np.partition(values, -k)[-k]


def random_k(candidates: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """A bool mask with exactly ``k`` ones drawn without replacement among the ones of the 1-d bool ``candidates``."""
    places = _places(candidates)
    chosen = torch.zeros_like(candidates)
    chosen[places[first_of_permutation(len(places), k, generator).to(places.device)]] = True
    return chosen


def _places(mask: Tensor) -> Tensor:
    """Where a 1-d mask is true, int64; numpy takes a quarter of torch's time on a CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


def top_k_by_layer(
    layout: Layout,
    scores: Tensor,
    counts: Tensor,
    within: Tensor | None = None,
    among_equals: Tensor | None = None,
) -> Tensor:
    """In every layer the ``counts[l]`` largest scores, among the ones of the mask ``within`` if it is given.

    Equal scores go as in ``top_k``.
    """
    if within is not None:
        scores = torch.where(within, scores[: layout.maskable], -torch.inf)
    equals = repeat(None) if among_equals is None else layout.split(among_equals)
    parts = zip(layout.split(scores), counts.tolist(), equals, strict=False)
    return torch.cat([top_k(part, k, equal) for part, k, equal in parts])
