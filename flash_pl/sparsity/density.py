"""Layer densities: how a budget of active weights is spread over the layers, rescaled, and rounded to whole numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flash_pl.checks import check_numbers
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.sparsity.layout import Layout


class Distribution(Protocol):
    """Spreads a target density d over the layers of a model.

    Layer l has n_l weights and costs c_l if it is dense (``layout.costs``): n_l, or its multiply-adds.

    >>> def denser_first_layer(layout: Layout, density: float) -> Tensor:
    ...     densities = torch.ones(len(layout.layers))
    ...     densities[0] = 4.0
    ...     return water_fill(densities, layout.costs, density)
    >>> from torch import nn
    >>> denser_first_layer(Layout(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 20))), 0.25)
    tensor([0.6667, 0.1667], dtype=torch.float64)
    """

    def __call__(self, layout: Layout, density: float) -> Tensor:
        """Return layer densities d_l with sum_l d_l c_l = d sum_l c_l, float64 ``[layers]``."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Gives every layer the target density.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)))
    >>> Uniform()(layout, 0.1).tolist()
    [0.1, 0.1]
    """

    def __call__(self, layout: Layout, density: float) -> Tensor:
        return torch.full((len(layout.layers),), density, dtype=torch.float64)


@dataclass(frozen=True)
class ERK:
    """Erdos-Renyi-Kernel: d_l is proportional to (sum of the weight's dimensions) / (product of the dimensions).

    Small layers are denser than large ones. Source: Evci et al., Rigging the Lottery (ICML 2020), section 3.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)))  # 30 / 200 and 25 / 100
    >>> ERK()(layout, 0.11)
    tensor([0.0900, 0.1500], dtype=torch.float64)
    """

    def __call__(self, layout: Layout, density: float) -> Tensor:
        shapes = [torch.tensor(layer.shape, dtype=torch.float64) for layer in layout.layers]
        densities = torch.stack([shape.sum() / shape.prod() for shape in shapes])
        return water_fill(_replace_undefined(densities, layout.sizes), layout.costs, density)


@dataclass(frozen=True)
class BySize:
    """d_l is proportional to n_l^-power, where n_l is the number of weights of layer l.

    Args:
        power: 0 gives uniform densities; 1 gives every layer the same number of active weights, as far as the layer has
            so many.

    Raises:
        ConfigError: ``power`` is not in [0, 1].

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)))
    >>> (BySize()(layout, 0.1) * layout.sizes).tolist()
    [15.0, 15.0]
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        check_numbers("[0, 1]", power=self.power)

    def __call__(self, layout: Layout, density: float) -> Tensor:
        densities = _replace_undefined(layout.sizes.double() ** -self.power, layout.sizes)
        return water_fill(densities, layout.costs, density)


def _replace_undefined(densities: Tensor, sizes: Tensor) -> Tensor:
    """Set the density of layers without weights, which is not finite, to 1. The other layers do not depend on it."""
    return densities.masked_fill(sizes == 0, 1.0)


@dataclass(frozen=True)
class GivenDensities:
    """Relative layer densities from the user, scaled to the target density.

    Args:
        densities: a number for each layer by its name, such as ``{"conv2": 1.0, "fc1": 0.03}``. The part of a name
            before a dot can be left out (``conv2`` for ``model.conv2``) if only one layer matches.

    Raises:
        ConfigError: a number is negative or not finite, all numbers are 0, or (when called) the names do not fit the
            layers.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)))
    >>> GivenDensities({"0": 1, "1": 4})(layout, 0.1).tolist()
    [0.05, 0.2]
    """

    densities: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, value in self.densities.items():
            check_numbers("[0, inf)", False, **{f"densities.{name}": value})
        if not any(self.densities.values()):
            raise ConfigError("densities", f"{as_yaml(dict(self.densities))} has no number above 0")

    def __call__(self, layout: Layout, density: float) -> Tensor:
        layers = [layer.name.removesuffix(".weight") for layer in layout.layers]
        keys = [[key for key in self.densities if f".{layer}".endswith(f".{key}")] for layer in layers]
        if any(len(matches) != 1 for matches in keys) or sorted(sum(keys, [])) != sorted(self.densities):
            raise ConfigError(
                "densities",
                f"the names {', '.join(self.densities)} do not match the layers one to one",
                f"give one number for each of the layers {', '.join(layers)}",
            )
        values = torch.tensor([self.densities[key] for (key,) in keys], dtype=torch.float64)
        return water_fill(values, layout.costs, density)


class Rescale(Protocol):
    """Rescales layer densities to a target density of the model."""

    def __call__(self, densities: Tensor, costs: Tensor, target: float) -> Tensor:
        """Return the new densities (float64 ``[layers]``) of layers with these ``costs`` (``layout.costs``)."""
        ...


def water_fill(densities: Tensor, costs: Tensor, target: float) -> Tensor:
    """Return d_l = min(1, r * densities_l) with the factor r that meets the target: sum_l d_l c_l = d sum_l c_l.

    A layer that reaches density 1 leaves the rest of its share to the other layers, in proportion to their densities.
    Layers of density 0 stay empty unless all other layers are full; then they share the rest equally. This is step 3 of
    FLASH's stage 1.

    >>> water_fill(torch.tensor([0.9, 0.1]), torch.tensor([100, 1000]), 0.2)
    tensor([1.0000, 0.1200], dtype=torch.float64)
    """
    densities, costs = densities.double(), costs.double()
    budget = target * float(costs.sum())
    full = torch.zeros(len(densities), dtype=torch.bool)
    while True:
        weight = float((densities * costs)[~full].sum())
        left = budget - float(costs[full].sum())
        if weight == 0:
            share = max(0.0, left) / max(1.0, float(costs[~full].sum()))
            return full.double().masked_fill(~full, share)
        scaled = densities * (left / weight)
        clipped = ~full & (scaled >= 1)
        if not clipped.any():
            return scaled.masked_fill(full, 1.0)
        full |= clipped


@dataclass(frozen=True)
class WaterFill:
    """Meets the target exactly, see ``water_fill``.

    >>> WaterFill()(torch.tensor([0.9, 0.1]), torch.tensor([100, 1000]), 0.2)
    tensor([1.0000, 0.1200], dtype=torch.float64)
    """

    def __call__(self, densities: Tensor, costs: Tensor, target: float) -> Tensor:
        return water_fill(densities, costs, target)


@dataclass(frozen=True)
class ScaleOnce:
    """Scales once and clips at 1. The weights that the clip removes are lost, as in the authors' code.

    >>> ScaleOnce()(torch.tensor([0.9, 0.1]), torch.tensor([100, 1000]), 0.2)  # 205 active weights, not 220
    tensor([1.0000, 0.1158])
    """

    def __call__(self, densities: Tensor, costs: Tensor, target: float) -> Tensor:
        ratio = target * float(costs.sum()) / float((densities * costs).sum())
        return (densities * ratio).clamp(max=1.0)


@dataclass(frozen=True)
class ScaleDown:
    """Scales once, but never upwards: densities under the target stay as they are, as in the authors' vote.

    >>> ScaleDown()(torch.tensor([0.1, 0.1]), torch.tensor([100, 1000]), 0.2)  # already below
    tensor([0.1000, 0.1000])
    """

    def __call__(self, densities: Tensor, costs: Tensor, target: float) -> Tensor:
        return densities * min(1.0, target * float(costs.sum()) / float((densities * costs).sum()))


def allot(
    ideal: Tensor, capacity: Tensor, total: float, minimum: Tensor | None = None, prices: Tensor | None = None
) -> Tensor:
    """Round ``ideal`` (float64 ``[layers]``) to whole numbers that sum to ``total``, none above its capacity.

    The numbers are rounded by largest remainder; of equal remainders the first layer's comes first.

    Args:
        ideal: wished numbers.
        capacity: largest allowed numbers, int64 ``[layers]``.
        total: their sum; with ``prices`` what they cost together.
        minimum: smallest allowed numbers, int64 ``[layers]``; 1 per layer by default. The minimum is ignored if it
            costs more than ``total``.
        prices: what one costs in each layer, float64 ``[layers]``, 1 by default. The cost then comes as near to
            ``total`` as the next number by remainder can bring it, which is within half the largest price.

    Raises:
        ValueError: ``total`` is larger than the cost of the capacities.

    >>> allot(torch.tensor([2.6, 3.4, 0.0]), torch.tensor([10, 10, 10]), 6)
    tensor([2, 3, 1])
    >>> allot(torch.tensor([2.6, 3.4]), torch.tensor([10, 10]), 60, prices=torch.tensor([10.0, 10.0]))
    tensor([3, 3])
    """
    prices = torch.ones(len(ideal), dtype=torch.float64) if prices is None else prices
    if round(total) > round(float((capacity * prices).sum())):
        raise ValueError(f"{total} weights do not fit into layers of {capacity.tolist()} weights")
    minimum = torch.minimum(capacity, torch.ones_like(capacity) if minimum is None else minimum)
    if total < float((minimum * prices).sum()):
        minimum = torch.zeros_like(capacity)
    counts = torch.minimum(torch.maximum(ideal.floor().long(), minimum), capacity)
    while True:
        missing = total - float((counts * prices).sum())
        step = 1 if missing > 0 else -1
        possible = counts < capacity if missing > 0 else counts > minimum
        remainder = ((ideal - counts) * step).masked_fill(~possible, -torch.inf)
        index = int(remainder.argmax())
        if not possible[index] or float(prices[index]) >= 2 * abs(missing):  # the cost would not come nearer
            return counts
        # Rounding leaves less than one weight per layer. A larger gap (``ideal`` far from ``total``) is closed in bulk.
        bulk = max(1, int(abs(missing) // float(prices.sum())))
        limit = int(capacity[index] - counts[index] if missing > 0 else counts[index] - minimum[index])
        counts[index] += step * min(bulk, limit)
