"""The first mask of a run: from layer densities to a mask, and initial weights that fit the mask."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from flash_pl.sparsity.density import Distribution, Rescale, Uniform, WaterFill, allot
from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.select import random_k, top_k_by_layer


class Draw(Protocol):
    """Draws a mask with given layer densities."""

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        """Return a mask, bool ``[layout.maskable]``.

        Args:
            layout: the layout of the arena.
            weights: the arena with the initial weights, ``[layout.size]``.
            densities: layer densities, float64 ``[layers]``.
            generator: source of random numbers.
        """
        ...


class Initialization(Protocol):
    """Adapts initial weights to a mask.

    If it looks at ``layout.scale_invariant``, it has an attribute ``skip_scale_invariant`` that is true.
    """

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None:
        """Change the arena ``weights`` (``[layout.size]``) in place to fit ``mask`` (bool ``[layout.maskable]``)."""
        ...


def layer_counts(layout: Layout, densities: Tensor) -> Tensor:
    """Return the number of active weights of each layer, int64 ``[layers]``: d_l n_l rounded to the budget of d."""
    ideal, prices = densities * layout.sizes, layout.prices
    # d without the rounding error of the sum
    target = round(float((ideal * prices).sum()) / float(layout.costs.sum()), 12)
    return allot(ideal, layout.sizes, layout.budget(target), prices=prices)


@dataclass(frozen=True)
class ExactDraw:
    """Draws as many weights as the budget of d allows, such as round(d n); d_l n_l is rounded up or down in each layer.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)))
    >>> mask = ExactDraw()(layout, torch.zeros(layout.size), torch.tensor([0.1, 0.5]), torch.Generator())
    >>> layout.counts(mask).tolist()
    [20, 50]
    """

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        counts = layer_counts(layout, densities)
        layers = zip(layout.sizes.tolist(), counts.tolist(), strict=True)
        return torch.cat([random_k(torch.ones(size, dtype=torch.bool), k, generator) for size, k in layers])


@dataclass(frozen=True)
class BernoulliDraw:
    """Draws each weight independently with probability d_l, as the authors' code does.

    The density of the model is met in expectation only.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 1, bias=False))
    >>> mask = BernoulliDraw()(layout, torch.zeros(4), torch.tensor([1.0]), torch.Generator())
    >>> mask.tolist()
    [True, True, True, True]
    """

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(layout.maskable, generator=generator) < densities.float().repeat_interleave(layout.sizes)


@dataclass(frozen=True)
class LargestDraw:
    """Takes the initial weights of largest magnitude in each layer, as many as ``ExactDraw``. Nothing is random.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 1, bias=False))
    >>> weights = torch.tensor([0.1, -0.9, 0.5, 0.0])
    >>> LargestDraw()(layout, weights, torch.tensor([0.5]), torch.Generator()).tolist()
    [False, True, True, False]
    """

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        return top_k_by_layer(layout, weights.abs(), layer_counts(layout, densities))


@dataclass(frozen=True)
class AsDrawn:
    """Leaves the weights as they were drawn for dense layers, as the authors' code does.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 1, bias=False))
    >>> weights = torch.ones(4)
    >>> AsDrawn()(layout, weights, torch.tensor([True, False, False, False]))
    >>> weights
    tensor([1., 1., 1., 1.])
    """

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None:
        pass


@dataclass(frozen=True)
class VariancePreserving:
    """Scales layer l by 1 / sqrt(d_l), so that the outputs keep the variance that they have in the dense layer.

    An output is a sum over inputs, and the mask leaves the fraction d_l of these inputs on average. The derivation is
    that of He et al. (ICCV 2015), section 2.2.

    A layer whose scale does not change the loss (``layout.scale_invariant``) stays as it was drawn; a normalization
    behind it sets the variance anyway. Larger weights would only learn more slowly, since the gradient shrinks as the
    scale grows (van Laarhoven, arXiv 1706.05350).

    Args:
        skip_scale_invariant: whether such layers stay as drawn; False scales all layers.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 1, bias=False))
    >>> weights = torch.ones(4)
    >>> VariancePreserving()(layout, weights, torch.tensor([True, False, False, False]))
    >>> weights
    tensor([2., 2., 2., 2.])
    """

    skip_scale_invariant: bool = True

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None:
        densities = layout.densities(mask).tolist()
        for part, density, invariant in zip(layout.split(weights), densities, layout.scale_invariant, strict=True):
            if density and not (invariant and self.skip_scale_invariant):
                part.mul_(density**-0.5)


@dataclass(frozen=True)
class FanInPreserving:
    """Like ``VariancePreserving``, but averages the density only over outputs that keep at least one input.

    Use it for masks of whole channels, where the removed outputs would lower the average.

    Args:
        skip_scale_invariant: as in ``VariancePreserving``.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(2, 2, bias=False))
    >>> weights = torch.ones(4)
    >>> FanInPreserving()(layout, weights, torch.tensor([True, True, False, False]))  # the second output is removed
    >>> weights
    tensor([1., 1., 1., 1.])
    """

    skip_scale_invariant: bool = True

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None:
        for slot, invariant in zip(layout.layers, layout.scale_invariant, strict=True):
            inputs = layout.by_output(slot, mask).flatten(0, 1).flatten(1)
            kept = inputs[inputs.any(dim=1)]
            if len(kept) and not (invariant and self.skip_scale_invariant):
                slot.view(weights).mul_(float(kept.double().mean()) ** -0.5)


@dataclass(frozen=True)
class FirstMask:
    """How a scheduler makes the first mask of a run.

    Args:
        distribution: gives the layer densities if stage 1 does not measure them; also gives the densities of the mask
            with which stage 1 starts.
        rescale: rescales the layer densities measured in stage 1 to the target density.
        draw: draws a mask with these layer densities.
        initialize: adapts the initial weights to the mask. The scheduler calls it, not the first mask.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)))
    >>> weights, generator = torch.randn(layout.size), torch.Generator().manual_seed(0)
    >>> mask = FirstMask()(layout, weights, 0.1, None, generator)
    >>> layout.densities(mask).tolist()
    [0.1, 0.1]
    >>> mask = FirstMask()(layout, weights, 0.1, torch.tensor([0.2, 0.8]), generator)
    >>> layout.densities(mask).tolist()
    [0.05, 0.2]
    """

    distribution: Distribution = field(default_factory=Uniform)
    rescale: Rescale = field(default_factory=WaterFill)
    draw: Draw = field(default_factory=ExactDraw)
    initialize: Initialization = field(default_factory=VariancePreserving)

    @property
    def asks_for_invariance(self) -> bool:
        """Whether ``initialize`` looks at ``layout.scale_invariant``, which takes a few training steps to find."""
        return getattr(self.initialize, "skip_scale_invariant", False)

    def __call__(
        self,
        layout: Layout,
        weights: Tensor,
        density: float,
        measured_densities: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        """Return a mask, bool ``[layout.maskable]``.

        Args:
            layout: the layout of the arena.
            weights: the arena with the initial weights, ``[layout.size]``.
            density: target density of the mask.
            measured_densities: the layer densities measured in stage 1, float64 ``[layers]``; None without stage 1.
            generator: source of random numbers.
        """
        if measured_densities is None:
            densities = self.distribution(layout, density)
        else:
            densities = self.rescale(measured_densities, layout.costs, density)
        return self.draw(layout, weights, densities, generator)
