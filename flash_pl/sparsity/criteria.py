"""Which weights are dropped and which are grown when a mask moves."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.select import random_k, top_k_by_layer


@dataclass(frozen=True)
class Seen:
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
    def __call__(self, seen: Seen, candidates: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        """``counts[l]`` weights of each layer among the ``candidates``, bool ``[layout.maskable]`` both."""


class Scored(Criterion):
    """The highest scores, ties by position."""

    @abstractmethod
    def scores(self, seen: Seen) -> Tensor:
        """One score a weight, ``[layout.maskable]``."""

    def __call__(self, seen: Seen, candidates: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        return top_k_by_layer(seen.layout, self.scores(seen), counts, within=candidates)


@dataclass(frozen=True)
class Magnitude(Scored):
    """The largest |w|."""

    def scores(self, seen: Seen) -> Tensor:
        return seen.weights[: seen.layout.maskable].abs()


@dataclass(frozen=True)
class Saliency(Scored):
    """The largest |g w|: by how much the loss would change, to first order (Lee et al., SNIP, ICLR 2019)."""

    needs_gradient: ClassVar[bool] = True

    def scores(self, seen: Seen) -> Tensor:
        assert seen.gradient is not None
        return (seen.gradient * seen.weights[: seen.layout.maskable]).abs()


@dataclass(frozen=True)
class Gradient(Scored):
    """The largest |g| (Evci et al., Rigging the Lottery, ICML 2020, section 3)."""

    needs_gradient: ClassVar[bool] = True

    def scores(self, seen: Seen) -> Tensor:
        assert seen.gradient is not None
        return seen.gradient.abs()


@dataclass(frozen=True)
class Random(Criterion):
    """At random without replacement (Mocanu et al., SET, Nature Communications 2018)."""

    def __call__(self, seen: Seen, candidates: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        parts = zip(seen.layout.split(candidates), counts.tolist(), strict=True)
        return torch.cat([random_k(part, k, generator) for part, k in parts])
