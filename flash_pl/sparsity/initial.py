"""What a first mask does to the initial weights that it keeps."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from flash_pl.sparsity.layout import Layout


class Initialisation(Protocol):
    """Adapts the arena's initial ``weights`` (``[layout.size]``, in place) to a mask (bool ``[layout.maskable]``)."""

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None: ...


@dataclass(frozen=True)
class AsDrawn:
    """The kept weights stay as they are, initialised for a dense layer (the authors' code)."""

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
