"""The first mask of a run: from layer densities to a mask and weights that fit it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from flash_pl.sparsity.density import Distribution, Rescale, Uniform, WaterFill
from flash_pl.sparsity.draw import Draw, ExactDraw
from flash_pl.sparsity.initial import Initialisation, VariancePreserving
from flash_pl.sparsity.layout import Layout


@dataclass(frozen=True)
class FirstMask:
    """How a method makes its first mask.

    Args:
        distribution: layer densities where no stage 1 finds them, and of the mask with which stage 1 starts.
        rescale: how layer densities that stage 1 found are brought to the target.
        draw: how a mask is drawn from layer densities.
        initialise: what the mask does to the initial weights.
    """

    distribution: Distribution = field(default_factory=Uniform)
    rescale: Rescale = field(default_factory=WaterFill)
    draw: Draw = field(default_factory=ExactDraw)
    initialise: Initialisation = field(default_factory=VariancePreserving)

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
