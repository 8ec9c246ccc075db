"""Redistribution: how many weights each layer drops in a move, and how many it grows."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.sparsity.layout import Layout

MAX_FILL = 0.99  # a layer grows into at most this fraction of its free places (FLASH authors' code)
NEARLY_DENSE = 0.2  # sparsity below which a growing layer drops at most its sparsity (FLASH authors' code)


class Redistribution(ABC):
    """Decides how many weights each layer drops and grows. The cost of the mask stays the same: its number of weights,
    or its multiply-adds if the budget counts these (``layout.prices``)."""

    @abstractmethod
    def __call__(self, layout: Layout, magnitude: Tensor, active: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """Return how many weights to drop (int64 ``[layers]``) and to grow (float64 ``[layers]``, of the same cost).

        Args:
            layout: the layout of the arena.
            magnitude: |w| of the active weights and 0 elsewhere, ``[layout.maskable]``.
            active: number of active weights of each layer, int64 ``[layers]``.
            rate: fraction of a layer's active weights to drop.

        Raises:
            ValueError: the magnitudes are needed, and some of them are not finite.
        """


@dataclass(frozen=True)
class KeepLayers(Redistribution):
    """Every layer grows as many weights as it drops, ceil(rate * nnz_l): layer densities stay (RigL, SET, FedDST).

    A layer drops at most as many weights as it has free places: with more, it would regrow weights that it has just
    dropped.

    Args:
        round_down: floor(rate * nnz_l), as in the RigL authors' code, also of SET.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)))
    >>> dropped, grown = KeepLayers()(layout, torch.ones(300), torch.tensor([40, 80]), rate=0.25)
    >>> dropped.tolist(), grown.tolist()
    ([10, 20], [10.0, 20.0])
    """

    round_down: bool = False

    def __call__(self, layout: Layout, magnitude: Tensor, active: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        wished = rate * active
        dropped = torch.minimum((wished.floor() if self.round_down else wished.ceil()).long(), layout.sizes - active)
        return dropped, dropped.double()


@dataclass(frozen=True)
class MeanMagnitude(Redistribution):
    """FLASH: the weights that all layers drop grow again in proportion to the layers' mean |w|.

    A layer grows into at most 99 % of its free places; the other layers share the rest equally.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)))
    >>> magnitude = torch.tensor([3.0] * 40 + [0.0] * 60 + [1.0] * 40 + [0.0] * 60)
    >>> dropped, grown = MeanMagnitude()(layout, magnitude, torch.tensor([40, 40]), rate=0.25)
    >>> dropped.tolist(), grown.tolist()
    ([10, 10], [15.0, 5.0])
    """

    def __call__(self, layout: Layout, magnitude: Tensor, active: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        shares = self.shares(layout, magnitude, active)
        dropped = drop_counts(active, layout.sizes, shares, rate)
        free = layout.sizes - active + dropped
        return dropped, redistribute(shares, free, float((dropped * layout.prices).sum()), layout.prices)

    def shares(self, layout: Layout, magnitude: Tensor, active: Tensor) -> Tensor:
        """Return each layer's share of the growth: its mean |w| over the sum of these means, float64 ``[layers]``."""
        return _normalized(_layer_sums(layout, magnitude) / active.clamp(min=1))


@dataclass(frozen=True)
class TotalMagnitude(MeanMagnitude):
    """Like ``MeanMagnitude``, but in proportion to the layers' total |w|.

    A small layer then does not receive most of the weights that a large layer drops.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)))
    >>> magnitude = torch.tensor([1.0] * 60 + [0.0] * 40 + [1.0] * 20 + [0.0] * 80)
    >>> dropped, grown = TotalMagnitude()(layout, magnitude, torch.tensor([60, 20]), rate=0.25)
    >>> dropped.tolist(), grown.tolist()
    ([15, 5], [15.0, 5.0])
    """

    def shares(self, layout: Layout, magnitude: Tensor, active: Tensor) -> Tensor:
        return _normalized(_layer_sums(layout, magnitude))


def _layer_sums(layout: Layout, magnitude: Tensor) -> Tensor:
    """Return the sum of ``magnitude`` over each layer, float64 ``[layers]``."""
    sums = torch.stack([part.sum() for part in layout.split(magnitude)]).cpu().double()
    if not sums.isfinite().all():  # the sum of finite float32 weights can exceed float32
        sums = torch.stack([part.cpu().double().sum() for part in layout.split(magnitude)])
    for layer, total in zip(layout.layers, sums.tolist(), strict=True):
        if not math.isfinite(total):
            raise ValueError(f"{layer.name} has weights that are not finite")
    return sums


def _normalized(values: Tensor) -> Tensor:
    return values / values.sum() if float(values.sum()) > 0 else torch.full_like(values, 1 / len(values))


def drop_counts(active: Tensor, sizes: Tensor, shares: Tensor, rate: float) -> Tensor:
    """Return how many weights each layer drops, int64 ``[layers]``: ceil(p_l nnz_l) with p_l = ``rate``.

    A nearly dense layer whose share of the growth is above average drops at most the fraction p_l = its sparsity.
    """
    sparsity = 1 - active.double() / sizes
    guarded = (sparsity < NEARLY_DENSE) & (shares > 1 / len(shares))
    rates = torch.where(guarded, sparsity.clamp(max=rate), rate)
    return torch.minimum((rates * active).ceil().long(), active)


def redistribute(shares: Tensor, free: Tensor, total: float, prices: Tensor) -> Tensor:
    """Return how many weights each layer grows, float64 ``[layers]``, which cost ``total`` together.

    The weights are spread by ``shares``. A layer grows into at most 99 % of its ``free`` places; the layers below that
    limit share the excess equally. If the limits together cost less than ``total``, layers grow in proportion to their
    free places instead.

    Args:
        shares: of the growth, float64 ``[layers]`` with the sum 1.
        free: places without an active weight, int64 ``[layers]``.
        total: cost of all weights that grow.
        prices: cost of one weight of each layer, float64 ``[layers]``.
    """
    limit = (free.double() * MAX_FILL).floor()
    if total >= float((limit * prices).sum()):
        return free.double() * (total / (float((free * prices).sum()) or 1.0))
    grown, excess = torch.zeros_like(limit), total
    portion = shares * float(shares.sum() / (shares * prices).sum())  # of weights that cost 1 together
    while excess > 1e-9:
        grown = grown + portion * excess
        excess = float(((grown - limit).clamp(min=0) * prices).sum())
        grown = torch.minimum(grown, limit)
        open_layers = (grown < limit).double()
        portion = open_layers / (float((open_layers * prices).sum()) or 1.0)
    return grown
