"""One move of dynamic sparse training: some active weights are dropped, as many others grow."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from flash_pl.errors import ConfigError
from flash_pl.sparsity.density import allot
from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.select import random_k, top_k_by_layer


@dataclass(frozen=True)
class CriterionInput:
    """What a criterion may look at.

    Args:
        layout: the plan of the arena.
        weights: the arena, or its head ``[layout.maskable]``.
        gradient: of all maskable weights, pruned ones included, ``[layout.maskable]``; None if no criterion needs it.
    """

    layout: Layout
    weights: Tensor
    gradient: Tensor | None = None


class Criterion(ABC):
    """Chooses weights: the ones to keep where a mask drops some, the ones to add where it grows.

    Attributes:
        needs_gradient: whether it looks at the gradient, which costs a dense backward pass.
    """

    needs_gradient: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, seen: CriterionInput, candidates: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        """``counts[l]`` weights of each layer among the ``candidates``, bool ``[layout.maskable]`` both."""


class Scored(Criterion):
    """The highest scores, ties by position."""

    @abstractmethod
    def scores(self, seen: CriterionInput) -> Tensor:
        """One score a weight, ``[layout.maskable]``."""

    def __call__(self, seen: CriterionInput, candidates: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        return top_k_by_layer(seen.layout, self.scores(seen), counts, within=candidates)


@dataclass(frozen=True)
class Magnitude(Scored):
    """The largest |w|."""

    def scores(self, seen: CriterionInput) -> Tensor:
        return seen.weights[: seen.layout.maskable].abs()


@dataclass(frozen=True)
class Saliency(Scored):
    """The largest |g w|: by how much the loss would change, to first order (Lee et al., SNIP, ICLR 2019)."""

    needs_gradient: ClassVar[bool] = True

    def scores(self, seen: CriterionInput) -> Tensor:
        assert seen.gradient is not None
        return (seen.gradient * seen.weights[: seen.layout.maskable]).abs()


@dataclass(frozen=True)
class Gradient(Scored):
    """The largest |g| (Evci et al., Rigging the Lottery, ICML 2020, section 3)."""

    needs_gradient: ClassVar[bool] = True

    def scores(self, seen: CriterionInput) -> Tensor:
        assert seen.gradient is not None
        return seen.gradient.abs()


@dataclass(frozen=True)
class Random(Criterion):
    """At random without replacement (Mocanu et al., SET, Nature Communications 2018)."""

    def __call__(self, seen: CriterionInput, candidates: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        parts = zip(seen.layout.split(candidates), counts.tolist(), strict=True)
        return torch.cat([random_k(part, k, generator) for part, k in parts])


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
        return _normalized(_sums(layout, magnitude) / active.clamp(min=1))


@dataclass(frozen=True)
class TotalMagnitude(MeanMagnitude):
    """Growth in proportion to a layer's total |w|, so that a small layer is not flooded by a large one's losses."""

    def shares(self, layout: Layout, magnitude: Tensor, active: Tensor) -> Tensor:
        return _normalized(_sums(layout, magnitude))


def _sums(layout: Layout, magnitude: Tensor) -> Tensor:
    sums = torch.stack([part.sum() for part in layout.split(magnitude)]).cpu().double()
    if not sums.isfinite().all():  # finite weights can have a sum that only double precision holds
        sums = torch.stack([part.cpu().double().sum() for part in layout.split(magnitude)])
    for layer, total in zip(layout.layers, sums.tolist(), strict=True):
        if not math.isfinite(total):
            raise ValueError(f"{layer.name} has weights that are not finite")
    return sums


def _normalized(values: Tensor) -> Tensor:
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


class MoveResult(NamedTuple):
    """A move's result.

    Attributes:
        mask: after the move, bool ``[maskable]``.
        survivors: the weights that keep their value and optimizer state, bool ``[maskable]``; the others are 0.
    """

    mask: Tensor
    survivors: Tensor


@dataclass(frozen=True)
class Move:
    """A move with exact counts: the number of active weights never changes. By default it is FLASH's.

    Grown places are chosen among the inactive ones, those just dropped included, and start at 0.

    Args:
        drop: says which weights of a layer are kept.
        growth: says which inactive weights become active.
        redistribution: how many of each every layer drops and grows.
        memory: m of the gradient that criteria see: g of the last step plus m times what was seen before; 0 for the
            last gradient alone, 0.9 to grow by momentum (Dettmers and Zettlemoyer, Sparse Networks from Scratch, 2019).

    Raises:
        ConfigError: ``memory`` is not in [0, 1).
    """

    drop: Criterion = field(default_factory=Magnitude)
    growth: Criterion = field(default_factory=Random)
    redistribution: Redistribution = field(default_factory=MeanMagnitude)
    memory: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.memory < 1:
            raise ConfigError("memory", self.memory, "a number in [0, 1)")

    @property
    def needs_gradient(self) -> bool:
        """Whether a criterion looks at the gradients of pruned weights."""
        return self.drop.needs_gradient or self.growth.needs_gradient

    def __call__(
        self,
        layout: Layout,
        weights: Tensor,
        mask: Tensor,
        rate: float,
        generator: torch.Generator,
        gradient: Tensor | None = None,
    ) -> MoveResult:
        """Move ``mask`` by the fraction ``rate``; changes none of its arguments.

        Args:
            layout: the plan of the arena.
            weights: the arena, or its head ``[layout.maskable]``, 0 outside the mask.
            mask: bool ``[layout.maskable]``.
            rate: the fraction of a layer's active weights to drop, in [0, 1].
            generator: of random choices.
            gradient: ``[layout.maskable]``, if the criteria need it.

        Raises:
            ValueError: ``rate`` is no fraction.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"a move drops a fraction in [0, 1], not {rate}")
        seen, active = CriterionInput(layout, weights, gradient), layout.counts(mask)
        dropped, wished = self.redistribution(layout, weights[: layout.maskable].abs() * mask, active, rate)
        kept = self.drop(seen, mask, active - dropped, generator)
        grown = self.grow(seen, kept, wished, active, generator)
        return MoveResult(kept | grown, self.survivors(mask, kept, grown))

    def grow(
        self, seen: CriterionInput, kept: Tensor, wished: Tensor, active: Tensor, generator: torch.Generator
    ) -> Tensor:
        """New places outside ``kept``; ``wished`` are their numbers, float64 ``[layers]``, their sum whole, ``active``
        the layers' numbers of weights before the move."""
        layout = seen.layout
        left = layout.counts(kept)
        emptied = ((left == 0) & (active > 0)).long()  # only a layer that lost all its weights must grow one
        counts = allot(wished, layout.sizes - left, round(float(wished.sum())), least=emptied)
        return self.growth(seen, ~kept, counts, generator)

    def survivors(self, mask: Tensor, kept: Tensor, grown: Tensor) -> Tensor:
        """The weights that keep their value."""
        return kept


class BernoulliMove(Move):
    """The FLASH authors' code: growth by a coin toss per free place; what is dropped and regrown keeps its value."""

    def grow(
        self, seen: CriterionInput, kept: Tensor, wished: Tensor, active: Tensor, generator: torch.Generator
    ) -> Tensor:
        layout = seen.layout
        free = (layout.sizes - layout.counts(kept)).clamp(min=1)
        chance = (wished / free).float().repeat_interleave(layout.sizes)
        return (torch.rand(layout.maskable, generator=generator) < chance).to(kept.device) & ~kept

    def survivors(self, mask: Tensor, kept: Tensor, grown: Tensor) -> Tensor:
        return mask & (kept | grown)
