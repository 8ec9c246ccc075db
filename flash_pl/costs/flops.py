"""Theoretical floating-point operations of a model under a mask; how fast kernels compute them is another matter."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.errors import ConfigError
from flash_pl.sparsity import Layout


@dataclass(frozen=True)
class Flops:
    """FLOPs of the products of the dense model, for one sample or for a batch; a multiply-add counts as two.

    Args:
        layers: forward FLOPs of the maskable layers, in their order.
        rest: forward FLOPs of all other products.
        input_gradients: FLOPs of the gradients of what the maskable weights are multiplied with; 0 for a layer that
            works on the model's input or on the output of frozen layers. The weights' own take as many as ``layers``.
        rest_gradients: FLOPs of the gradients of all factors of the other products.

    >>> flops = Flops(layers=(100.0, 40.0), rest=10.0, input_gradients=(0.0, 40.0), rest_gradients=20.0)
    >>> flops.forward(torch.tensor([0.5, 0.25]))
    70.0
    >>> flops.training(flops.dense)
    350.0
    """

    layers: tuple[float, ...]
    rest: float
    input_gradients: tuple[float, ...]
    rest_gradients: float

    def forward(self, densities: Tensor) -> float:
        """f_S: the sum of the layers' FLOPs times their density, plus the rest; f_D for densities of 1."""
        return _weighted(self.layers, densities) + self.rest

    def density(self, densities: Tensor) -> float:
        """The share of the maskable layers' FLOPs that remains, sum_l f_l d_l / sum_l f_l; 1 if they have none."""
        dense = sum(self.layers)
        return _weighted(self.layers, densities) / dense if dense else 1.0

    def of_each(self, samples: float) -> "Flops":
        """The FLOPs of one sample, where these are of ``samples`` samples."""
        layers, gradients = (tuple(f / samples for f in each) for each in (self.layers, self.input_gradients))
        return Flops(layers, self.rest / samples, gradients, self.rest_gradients / samples)

    def training(self, densities: Tensor, dense_gradients: float = 0.0) -> float:
        """FLOPs of one sample in one step: of the forward pass and of the gradients that training needs.

        The gradient of a maskable weight takes its layer's FLOPs times the density, or all of them in the share
        ``dense_gradients`` of the steps, which compute gradients of pruned weights too.
        """
        sparse = _weighted(self.layers, densities)
        weight_gradients = sparse + dense_gradients * (sum(self.layers) - sparse)
        gradients = weight_gradients + _weighted(self.input_gradients, densities) + self.rest_gradients
        return sparse + self.rest + gradients

    @property
    def dense(self) -> Tensor:
        """Layer densities of 1, of a dense model."""
        return torch.ones(len(self.layers), dtype=torch.float64)


def _weighted(layers: Sequence[float], densities: Tensor) -> float:
    return sum(f * d for f, d in zip(layers, densities.tolist(), strict=True))


def multiply_adds(flops: Flops | None, layout: Layout) -> Tensor:
    """Forward multiply-adds of one sample in each maskable layer, if it is dense, float64 ``[layers]``.

    These are the ``layout.costs`` of a run whose density is a share of FLOPs. The ``rest`` has no part in them.

    Args:
        flops: of one sample; None if they could not be counted.
        layout: of the model.

    Raises:
        ConfigError: they could not be counted, or a layer takes none, so that its weights would cost nothing.
    """
    if flops is None:
        problem = "flops, but no validation_step runs the model to count its FLOPs"
        raise ConfigError("density_of", problem, "write a validation_step, or set density_of=weights")
    for slot, size, count in zip(layout.layers, layout.sizes.tolist(), flops.layers, strict=True):
        if size and not count:
            problem = f"flops, but the maskable weight {slot.name} takes no FLOPs in validation"
            raise ConfigError("density_of", problem, "exclude it from masking, or set density_of=weights")
    return torch.tensor(flops.layers, dtype=torch.float64) / 2
