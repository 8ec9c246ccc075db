"""The first mask of a run: from layer densities to a mask and weights that fit it."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from flash_pl.sparsity.density import Distribution, Rescale, Uniform, WaterFill, allot, total_count
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


class Initialization(Protocol):
    """Adapts the arena's initial ``weights`` (``[layout.size]``, in place) to a mask (bool ``[layout.maskable]``)."""

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None: ...


@dataclass(frozen=True)
class AsDrawn:
    """The kept weights stay as they are, initialized for a dense layer (the authors' code)."""

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None:
        pass


@dataclass(frozen=True)
class VariancePreserving:
    """Layer l times 1 / sqrt(d_l): a unit sums d_l as many inputs, this keeps the variance of the sum.

    The argument of He et al. (ICCV 2015), section 2.2, with the fan-in that the mask leaves on average.
    """

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None:
        for part, density in zip(layout.split(weights), layout.densities(mask).tolist(), strict=True):
            if density:
                part.mul_(density**-0.5)


@dataclass(frozen=True)
class FanInPreserving:
    """As ``VariancePreserving`` with the inputs that the mask leaves a unit which it leaves any: of masks of whole
    channels the units that are gone do not count."""

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None:
        for slot in layout.layers:
            inputs = slot.view(mask).flatten(1)
            left = inputs[inputs.any(dim=1)]
            if len(left):
                slot.view(weights).mul_(float(left.double().mean()) ** -0.5)


@dataclass(frozen=True)
class FirstMask:
    """How a method makes its first mask.

    Args:
        distribution: layer densities where no stage 1 finds them, and of the mask with which stage 1 starts.
        rescale: how layer densities that stage 1 found are brought to the target.
        draw: how a mask is drawn from layer densities.
        initialize: what the mask does to the initial weights.
    """

    distribution: Distribution = field(default_factory=Uniform)
    rescale: Rescale = field(default_factory=WaterFill)
    draw: Draw = field(default_factory=ExactDraw)
    initialize: Initialization = field(default_factory=VariancePreserving)

    def __call__(
        self, layout: Layout, weights: Tensor, density: float, found: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """A mask, bool ``[layout.maskable]``, of target ``density`` for the initial ``weights`` (``[layout.size]``).

        ``found`` are the layer densities of stage 1 (float64 ``[layers]``) or None.
        """
        if found is None:
            densities = self.distribution(layout, density)
        else:
            densities = self.rescale(found, layout.sizes, density)
        return self.draw(layout, weights, densities, generator)
