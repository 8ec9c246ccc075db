"""Exact choices among weights: the k largest scores, or k weights at random."""

from itertools import accumulate, repeat

import numpy as np
import torch
from torch import Tensor

from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.permutation import first_of_permutation


def top_k(scores: Tensor, k: int, tie_breaker: Tensor | None = None) -> Tensor:
    """Return a bool mask with exactly ``k`` ones, at the largest of the 1-d ``scores``.

    Of equal scores the ones with a larger ``tie_breaker`` (scores of the same shape) come first, then the ones at
    earlier positions. ``torch.topk`` defines no order of equal scores, so two devices could disagree on a mask.
    NaN counts as -1, which is below every magnitude.

    >>> top_k(torch.tensor([1.0, 3.0, 2.0, 2.0]), 2)
    tensor([False,  True,  True, False])
    >>> top_k(torch.tensor([1.0, 3.0, 2.0, 2.0]), 2, tie_breaker=torch.tensor([0.0, 0.0, 0.1, 0.2]))
    tensor([False,  True, False,  True])
    """
    if k <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if k >= scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    scores = scores.nan_to_num(nan=-1.0, posinf=torch.inf, neginf=-torch.inf)
    threshold = kth_largest(scores, k)
    if scores.device.type != "cpu" and tie_breaker is None:
        return _first_of_equal(scores, k, threshold)
    chosen = scores >= threshold
    if int(chosen.count_nonzero()) == k:
        return chosen
    chosen = scores > threshold
    ties, missing = _indices(scores == threshold), k - int(chosen.count_nonzero())
    chosen[ties[:missing] if tie_breaker is None else ties[top_k(tie_breaker[ties], missing)]] = True
    return chosen


def _first_of_equal(scores: Tensor, k: int, threshold: Tensor) -> Tensor:
    """The ``k`` largest scores, given the k-th; of equal ones the first. The host does not wait for a GPU."""
    above, equal = scores > threshold, scores == threshold
    return above | (equal & (equal.cumsum(0) <= k - above.count_nonzero()))


def kth_largest(values: Tensor, k: int) -> Tensor:
    """Return the ``k``-th largest (k = 1 is the largest) of the 1-d ``values`` as a 0-d tensor. No value may be NaN.

    >>> kth_largest(torch.tensor([1.0, 4.0, 3.0]), 2)
    tensor(3.)
    """
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        return torch.tensor(_kth_largest(values.detach().numpy(), k))
    return values.topk(k, sorted=False).values.min()


def _kth_largest(values: np.ndarray, k: int) -> np.generic:
    """Return the same by numpy's partition, which takes a fifth of the time of torch.topk, and less for large k.

    Partition is slow if many values are equal, such as the zeros after a ReLU. These are the smallest values, so they
    are left out unless the result is one of them.
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
    """Return a bool mask with exactly ``k`` ones, drawn without replacement among the ones of the 1-d ``candidates``.

    Args:
        candidates: bool ``[n]``.
        k: how many to draw.
        generator: source of random numbers, on the CPU.

    >>> mask = random_k(torch.tensor([True, True, False, True]), 2, torch.Generator().manual_seed(0))
    >>> int(mask.sum()), bool(mask[2])
    (2, False)
    """
    indices = _indices(candidates)
    chosen = torch.zeros_like(candidates)
    chosen[indices[first_of_permutation(len(indices), k, generator).to(indices.device)]] = True
    return chosen


def _indices(mask: Tensor) -> Tensor:
    """Return the indices of the ones of a 1-d mask, int64. On a CPU numpy takes a quarter of torch's time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


def top_k_by_layer(
    layout: Layout,
    scores: Tensor,
    counts: Tensor,
    within: Tensor | None = None,
    tie_breaker: Tensor | None = None,
) -> Tensor:
    """Return a mask with the ``counts[l]`` largest scores of each layer l.

    Args:
        layout: the layout of the arena.
        scores: a score for each weight, ``[layout.maskable]`` or longer.
        counts: number of weights of each layer, int64 ``[layers]``.
        within: a mask; only its weights are chosen.
        tie_breaker: decides between equal scores, see ``top_k``.

    Returns:
        bool ``[layout.maskable]``.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)))
    >>> top_k_by_layer(layout, torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0, 9.0]), torch.tensor([2, 1]))
    tensor([ True,  True, False, False, False,  True])
    """
    if within is not None:
        scores = torch.where(within, scores[: layout.maskable], -torch.inf)
    breakers = repeat(None) if tie_breaker is None else layout.split(tie_breaker)
    parts = zip(layout.split(scores), counts.tolist(), breakers, strict=False)
    return torch.cat([top_k(part, k, breaker) for part, k, breaker in parts])


def top_k_by_cost(layout: Layout, scores: Tensor, cost: float) -> Tensor:
    """Return the mask of the largest scores over all layers that costs ``cost``.

    One threshold serves all layers: the mask has the k largest scores, equal scores by position as in ``top_k``, with
    the k whose cost is nearest to ``cost``. If the budget counts weights, k is ``cost``.

    Args:
        layout: the layout of the arena.
        scores: a score for each weight, ``[layout.maskable]``.
        cost: in the unit of ``layout.costs``, such as ``layout.budget(density)``.

    Returns:
        bool ``[layout.maskable]``.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)))
    >>> scores = torch.tensor([6.0, 5.0, 1.0, 2.0, 4.0, 3.0])
    >>> top_k_by_cost(layout, scores, 3)
    tensor([ True,  True, False, False,  True, False])
    >>> layout.costs = torch.tensor([4.0, 20.0])  # multiply-adds: 1 a weight, and 10 a weight of the second layer
    >>> top_k_by_cost(layout, scores, 6)
    tensor([ True,  True, False, False, False, False])
    """
    prices = layout.prices
    if bool((prices == 1).all()):
        return top_k(scores, round(cost))
    order = scores.nan_to_num(nan=-1.0, posinf=torch.inf, neginf=-torch.inf).argsort(descending=True, stable=True)
    spent = prices.repeat_interleave(layout.sizes)[order.cpu()].cumsum(0)
    k = int(torch.searchsorted(spent, cost, right=True))  # the k-th score fits, and of the next one a part
    if k < len(spent):
        before = float(spent[k - 1]) if k else 0.0
        k = round(k + (cost - before) / (float(spent[k]) - before))
    mask = torch.zeros(layout.maskable, dtype=torch.bool, device=scores.device)
    mask[order[:k]] = True
    return mask


def random_k_by_layer(layout: Layout, candidates: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Return a mask with ``counts[l]`` random ``candidates`` of each layer l, as ``random_k`` draws them.

    Args:
        layout: the layout of the arena.
        candidates: bool ``[layout.maskable]``.
        counts: number of weights of each layer, int64 ``[layers]``.
        generator: source of random numbers, on the CPU.

    Returns:
        bool ``[layout.maskable]``.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)))
    >>> free = torch.tensor([True, False, True, False, True, True])
    >>> random_k_by_layer(layout, free, torch.tensor([2, 0]), torch.Generator())
    tensor([ True, False,  True, False, False, False])
    """
    if candidates.device.type != "cpu":
        return _random_k_by_rank(layout, candidates, counts, generator)
    parts = zip(layout.split(candidates), counts.tolist(), strict=True)
    return torch.cat([random_k(part, k, generator) for part, k in parts])


def _random_k_by_rank(layout: Layout, candidates: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the ranks of the chosen weights among all candidates; only these go to a GPU, and its host waits once."""
    among = layout.counts(candidates).tolist()
    layers = zip(accumulate(among, initial=0), among, counts.tolist(), strict=False)
    ranks = torch.cat([first + first_of_permutation(count, k, generator) for first, count, k in layers])
    chosen = torch.zeros(sum(among) + 1, dtype=torch.bool, device=candidates.device)
    chosen.index_fill_(0, 1 + ranks.int().to(candidates.device).long(), True)
    return chosen[candidates.cumsum(0)] & candidates  # a place that is no candidate has the rank of the one before it
