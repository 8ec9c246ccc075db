"""One move of dynamic sparse training: some active weights are dropped, as many others grow."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from flash_pl.errors import ConfigError
from flash_pl.sparsity.criteria import Criterion, Magnitude, Random, Seen
from flash_pl.sparsity.density import allot
from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.redistribution import MeanMagnitude, Redistribution


class Moved(NamedTuple):
    """A move's result.

    Attributes:
        mask: after the move, bool ``[maskable]``.
        survivors: the weights that keep their value and optimiser state, bool ``[maskable]``; the others are 0.
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
        layers: how many of each.
        memory: m of the gradient that criteria see: g of the last step plus m times what was seen before; 0 for the
            last gradient alone, 0.9 to grow by momentum (Dettmers and Zettlemoyer, Sparse Networks from Scratch, 2019).

    Raises:
        ConfigError: ``memory`` is not in [0, 1).
    """

    drop: Criterion = field(default_factory=Magnitude)
    growth: Criterion = field(default_factory=Random)
    layers: Redistribution = field(default_factory=MeanMagnitude)
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
    ) -> Moved:
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
        seen, active = Seen(layout, weights, gradient), layout.counts(mask)
        dropped, wished = self.layers(layout, weights[: layout.maskable].abs() * mask, active, rate)
        kept = self.drop(seen, mask, active - dropped, generator)
        grown = self.grow(seen, kept, wished, active, generator)
        return Moved(kept | grown, self.survivors(mask, kept, grown))

    def grow(self, seen: Seen, kept: Tensor, wished: Tensor, active: Tensor, generator: torch.Generator) -> Tensor:
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

    def grow(self, seen: Seen, kept: Tensor, wished: Tensor, active: Tensor, generator: torch.Generator) -> Tensor:
        layout = seen.layout
        free = (layout.sizes - layout.counts(kept)).clamp(min=1)
        chance = (wished / free).float().repeat_interleave(layout.sizes)
        return (torch.rand(layout.maskable, generator=generator) < chance).to(kept.device) & ~kept

    def survivors(self, mask: Tensor, kept: Tensor, grown: Tensor) -> Tensor:
        return mask & (kept | grown)
