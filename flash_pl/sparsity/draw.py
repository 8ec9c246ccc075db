"""First masks of given layer densities, at random or by the initial weights."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flash_pl.sparsity.density import allot, total_count
from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.select import random_k, top_k_by_layer


def layer_counts(layout: Layout, densities: Tensor) -> Tensor:
    """Whole numbers of weights with these layer densities: round(d n) in all, d_l n_l rounded up or down in each."""
    ideal = densities * layout.sizes
    target = round(float(ideal.sum()) / int(layout.sizes.sum()), 12)  # d again, whatever digits the sum has lost
    return allot(ideal, layout.sizes, total_count(layout.sizes, target))


class Draw(Protocol):
    """Draws a mask (bool ``[layout.maskable]``) with layer densities float64 ``[layers]`` for the initial ``weights``
    ``[layout.size]``."""

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class ExactDraw:
    """Exactly round(d n) ones in all, d_l n_l rounded up or down in every layer."""

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        counts = layer_counts(layout, densities)
        layers = zip(layout.sizes.tolist(), counts.tolist(), strict=True)
        return torch.cat([random_k(torch.ones(size, dtype=torch.bool), k, generator) for size, k in layers])


@dataclass(frozen=True)
class BernoulliDraw:
    """Each weight on its own with probability d_l; the density is met in expectation only (the authors' code)."""

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(layout.maskable, generator=generator) < densities.float().repeat_interleave(layout.sizes)


@dataclass(frozen=True)
class LargestDraw:
    """No draw: of every layer the largest |w|, exactly as many as ``ExactDraw`` has."""

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        return top_k_by_layer(layout, weights.abs(), layer_counts(layout, densities))
