"""How many weights each layer drops and grows when a mask moves."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.sparsity.layout import Layout

MAX_FILL = 0.99  # of a layer's free places, the FLASH authors' limit
NEARLY_DENSE = 0.2  # sparsity under which a growing layer is not pruned beyond its sparsity, theirs too


class Redistribution(ABC):
    """A rule of how a move changes the layers' densities; the number of active weights of the model stays."""

    @abstractmethod
    def __call__(self, layout: Layout, magnitude: Tensor, active: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """Numbers of weights to drop (int64 ``[layers]``) and to grow (float64 ``[layers]``, of the same sum).

        Args:
            layout: the plan of the arena.
            magnitude: |w| of the active weights, 0 elsewhere, ``[layout.maskable]``.
            active: numbers of active weights, int64 ``[layers]``.
            rate: the fraction of a layer's active weights to drop.

        Raises:
            ValueError: the rule needs magnitudes, and some are not finite.
        """


@dataclass(frozen=True)
class KeepLayers(Redistribution):
    """Every layer grows what it drops, ceil(rate nnz_l): layer densities stay (RigL, SET, FedDST).

    A layer with fewer free places drops no more than these: it could only grow again, from 0, what it has dropped.
    """

    def __call__(self, layout: Layout, magnitude: Tensor, active: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        dropped = torch.minimum((rate * active).ceil().long(), layout.sizes - active)
        return dropped, dropped.double()


@dataclass(frozen=True)
class MeanMagnitude(Redistribution):
    """FLASH: what all layers drop goes back in proportion to the layers' mean |w|.

    A layer takes at most 99 % of its free places, the excess goes evenly to the others.
    """

    def __call__(self, layout: Layout, magnitude: Tensor, active: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        shares = self.shares(layout, magnitude, active)
        dropped = drop_counts(active, layout.sizes, shares, rate)
        free = layout.sizes - active + dropped
        return dropped, redistribute(shares, free, int(dropped.sum()))

    def shares(self, layout: Layout, magnitude: Tensor, active: Tensor) -> Tensor:
        """Each layer's share of the growth: its mean |w| over the sum of all layers' means, float64 ``[layers]``."""
        return _normalised(_sums(layout, magnitude) / active.clamp(min=1))


@dataclass(frozen=True)
class TotalMagnitude(MeanMagnitude):
    """Growth in proportion to a layer's total |w|, so that a small layer is not flooded by a large one's losses."""

    def shares(self, layout: Layout, magnitude: Tensor, active: Tensor) -> Tensor:
        return _normalised(_sums(layout, magnitude))


def _sums(layout: Layout, magnitude: Tensor) -> Tensor:
    sums = torch.stack([part.sum() for part in layout.split(magnitude)]).cpu().double()
    if not sums.isfinite().all():  # finite weights can have a sum that only double precision holds
        sums = torch.stack([part.cpu().double().sum() for part in layout.split(magnitude)])
    for layer, total in zip(layout.layers, sums.tolist(), strict=True):
        if not math.isfinite(total):
            raise ValueError(f"{layer.name} has weights that are not finite")
    return sums


def _normalised(values: Tensor) -> Tensor:
    return values / values.sum() if float(values.sum()) > 0 else torch.full_like(values, 1 / len(values))


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
