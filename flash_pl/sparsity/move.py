"""One move of dynamic sparse training: magnitude prune, magnitude redistribution, random growth."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flash_pl.sparsity.density import allot
from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.select import random_k, top_k_by_layer

MAX_FILL = 0.99  # of a layer's free places, the authors' limit
NEARLY_DENSE = 0.2  # sparsity under which a growing layer is not pruned beyond its sparsity, theirs too


class Moved(NamedTuple):
    """The mask after a move and the weights that keep their value and optimiser state (both bool ``[maskable]``)."""

    mask: Tensor
    survivors: Tensor


@dataclass(frozen=True)
class Move:
    """FLASH's move with exact counts: the number of active weights never changes.

    In layer l the ceil(p nnz_l) active weights of smallest |w| are dropped. What all layers dropped together goes back
    in proportion to the layers' mean |w| before the drop, at most 99 % of a layer's free places, the excess evenly to
    the others. Grown places are drawn at random among the inactive ones, those just dropped included, and start at 0.
    """

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor, rate: float, generator: torch.Generator) -> Moved:
        """Move ``mask`` (bool ``[maskable]``) by the fraction ``rate`` for the arena ``weights``; changes neither."""
        magnitude = weights[: layout.maskable].abs() * mask
        active = layout.counts(mask)
        shares = self.shares(layout, magnitude, active)
        dropped = drop_counts(active, layout.sizes, shares, rate)
        kept = top_k_by_layer(layout, magnitude, active - dropped, within=mask)
        free = layout.sizes - active + dropped
        grown = self.grow(layout, kept, redistribute(shares, free, int(dropped.sum())), generator)
        return Moved(kept | grown, self.survivors(mask, kept, grown))

    def shares(self, layout: Layout, magnitude: Tensor, active: Tensor) -> Tensor:
        """Each layer's share of the growth: its mean |w| over the sum of all layers' means, float64 ``[layers]``."""
        sums = torch.stack([part.sum() for part in layout.split(magnitude)]).cpu().double()
        means = sums / active.clamp(min=1)
        return means / means.sum() if float(means.sum()) > 0 else torch.full_like(means, 1 / len(means))

    def grow(self, layout: Layout, kept: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        """New places outside ``kept``; ``counts`` are the wished numbers, float64 ``[layers]``, their sum whole."""
        left = layout.counts(kept)
        emptied = (left == 0).long()  # only a layer that lost all its weights must grow one
        exact = allot(counts, layout.sizes - left, round(float(counts.sum())), least=emptied).tolist()
        return torch.cat([random_k(~part, k, generator) for part, k in zip(layout.split(kept), exact, strict=True)])

    def survivors(self, mask: Tensor, kept: Tensor, grown: Tensor) -> Tensor:
        """The weights that keep their value."""
        return kept


class SizeAwareMove(Move):
    """Growth in proportion to a layer's total |w|, so that a small layer is not flooded by a large one's losses."""

    def shares(self, layout: Layout, magnitude: Tensor, active: Tensor) -> Tensor:
        sums = torch.stack([part.sum() for part in layout.split(magnitude)]).cpu().double()
        return sums / sums.sum() if float(sums.sum()) > 0 else torch.full_like(sums, 1 / len(sums))


class BernoulliMove(Move):
    """The authors' code: growth by a coin toss per free place, and a place dropped and regrown keeps its old value."""

    def grow(self, layout: Layout, kept: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        free = (layout.sizes - layout.counts(kept)).clamp(min=1)
        chance = (counts / free).float().repeat_interleave(layout.sizes)
        return (torch.rand(layout.maskable, generator=generator) < chance).to(kept.device) & ~kept

    def survivors(self, mask: Tensor, kept: Tensor, grown: Tensor) -> Tensor:
        return mask & (kept | grown)


def drop_counts(active: Tensor, sizes: Tensor, shares: Tensor, rate: float) -> Tensor:
    """ceil(p_l nnz_l) with p_l = rate, but at most the layer's sparsity for a nearly dense layer that will grow."""
    sparsity = 1 - active.double() / sizes
    guarded = (sparsity < NEARLY_DENSE) & (shares > 1 / len(shares))
    rates = torch.where(guarded, sparsity.clamp(max=rate), rate)
    return torch.minimum((rates * active).ceil().long(), active)


def redistribute(shares: Tensor, free: Tensor, total: int) -> Tensor:
    """Spread ``total`` new weights by ``shares``, no layer beyond 99 % of its free places, the excess evenly.

    Returns float64 ``[layers]``, summing to ``total``; in proportion to the free places if 99 % of them do not suffice.
    """
    limit = (free.double() * MAX_FILL).floor()
    if total >= float(limit.sum()):
        return free.double() * (total / max(1.0, float(free.sum())))
    grown, excess = torch.zeros_like(limit), float(total)
    portion = shares
    while excess > 1e-9:
        grown = grown + portion * excess
        excess = float((grown - limit).clamp(min=0).sum())
        grown = torch.minimum(grown, limit)
        open_layers = (grown < limit).double()
        portion = open_layers / open_layers.sum().clamp(min=1)
    return grown
