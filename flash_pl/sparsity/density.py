"""How a density budget is spread over the layers: distributions, rescaling to the budget, whole numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flash_pl.errors import ConfigError
from flash_pl.sparsity.layout import Layout


class Distribution(Protocol):
    """Spreads a target density d over the layers: float64 ``[layers]`` with sum_l d_l n_l = d n."""

    def __call__(self, layout: Layout, density: float) -> Tensor: ...


@dataclass(frozen=True)
class Uniform:
    """Every layer has the target density."""

    def __call__(self, layout: Layout, density: float) -> Tensor:
        return torch.full((len(layout.layers),), density, dtype=torch.float64)


@dataclass(frozen=True)
class ERK:
    """Erdos-Renyi-Kernel: d_l proportional to (sum of the weight's dimensions) / (their product).

    Source: Evci et al., Rigging the Lottery (ICML 2020), section 3.
    """

    def __call__(self, layout: Layout, density: float) -> Tensor:
        shapes = [torch.tensor(layer.shape, dtype=torch.float64) for layer in layout.layers]
        found = torch.stack([shape.sum() / shape.prod() for shape in shapes])
        return water_fill(_of_weights(found, layout.sizes), layout.sizes, density)


@dataclass(frozen=True)
class BySize:
    """d_l proportional to n_l^-power, the number of a layer's weights.

    Args:
        power: 0 for uniform densities, 1 for as many active weights in every layer that has so many.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise ConfigError("power", self.power, "a number in [0, 1]")

    def __call__(self, layout: Layout, density: float) -> Tensor:
        return water_fill(_of_weights(layout.sizes.double() ** -self.power, layout.sizes), layout.sizes, density)


def _of_weights(densities: Tensor, sizes: Tensor) -> Tensor:
    """1 for a layer without weights, of which there is no density: any number that lets the others have theirs."""
    return densities.masked_fill(sizes == 0, 1.0)


@dataclass(frozen=True)
class Given:
    """Relative layer densities by layer name (``{"conv2": 1.0, "fc1": 0.03}``), scaled to the target.

    A name may leave out what stands before a dot, as ``conv2`` for ``model.conv2``, where that is clear.
    """

    densities: Mapping[str, float]

    def __post_init__(self) -> None:
        values = list(self.densities.values())
        if not all(0 <= value < math.inf for value in values) or not any(values):
            raise ConfigError("densities", dict(self.densities), "numbers of at least 0, not all 0")

    def __call__(self, layout: Layout, density: float) -> Tensor:
        names = [layer.name.removesuffix(".weight") for layer in layout.layers]
        keys = [[key for key in self.densities if f".{name}".endswith(f".{key}")] for name in names]
        if any(len(found) != 1 for found in keys) or sorted(sum(keys, [])) != sorted(self.densities):
            raise ConfigError(
                "densities", dict(self.densities), f"one number for each of the layers {', '.join(names)}"
            )
        values = torch.tensor([self.densities[key] for (key,) in keys], dtype=torch.float64)
        return water_fill(values, layout.sizes, density)


class Rescale(Protocol):
    """Brings layer densities to a target: (densities ``[layers]``, sizes ``[layers]``, target d) -> densities."""

    def __call__(self, densities: Tensor, sizes: Tensor, target: float) -> Tensor: ...


def water_fill(densities: Tensor, sizes: Tensor, target: float) -> Tensor:
    """d_l = min(1, r * dbar_l) with the r that solves sum_l d_l n_l = d n exactly (FLASH stage 1, step 3).

    What the clip at 1 removes raises r, so the other layers take it in proportion. Only when every layer with a
    positive density is full do the layers of density 0 share the rest, equally.
    """
    densities, sizes = densities.double(), sizes.double()
    budget = target * float(sizes.sum())
    full = torch.zeros(len(densities), dtype=torch.bool)
    while True:
        weight = float((densities * sizes)[~full].sum())
        left = budget - float(sizes[full].sum())
        if weight == 0:
            share = max(0.0, left) / max(1.0, float(sizes[~full].sum()))
            return full.double().masked_fill(~full, share)
        scaled = densities * (left / weight)
        clipped = ~full & (scaled >= 1)
        if not clipped.any():
            return scaled.masked_fill(full, 1.0)
        full |= clipped


@dataclass(frozen=True)
class WaterFill:
    """The exact solution, ``water_fill``."""

    def __call__(self, densities: Tensor, sizes: Tensor, target: float) -> Tensor:
        return water_fill(densities, sizes, target)


@dataclass(frozen=True)
class ScaleOnce:
    """One scaling and one clip at 1, what the clip removes is lost (the authors' code)."""

    def __call__(self, densities: Tensor, sizes: Tensor, target: float) -> Tensor:
        ratio = target * float(sizes.sum()) / float((densities * sizes).sum())
        return (densities * ratio).clamp(max=1.0)


@dataclass(frozen=True)
class ScaleDown:
    """As ``ScaleOnce``, but never upwards: a server under its budget stays there (the authors' vote)."""

    def __call__(self, densities: Tensor, sizes: Tensor, target: float) -> Tensor:
        return densities * min(1.0, target * float(sizes.sum()) / float((densities * sizes).sum()))


def total_count(sizes: Tensor, density: float) -> int:
    """Active weights of a model of ``density``: d n, rounded."""
    return round(density * int(sizes.sum()))


def allot(ideal: Tensor, capacity: Tensor, total: int, least: Tensor | None = None) -> Tensor:
    """Whole numbers near ``ideal`` (float64 ``[layers]``) that sum to ``total`` exactly, none above its capacity.

    Largest remainder, ties by position. ``least`` are the smallest numbers allowed (int64 ``[layers]``); by default no
    layer is left empty while the total allows one weight for each. Where the total is less than they are together, they
    are given up.

    Raises:
        ValueError: the capacities together are less than the total.
    """
    if total > int(capacity.sum()):
        raise ValueError(f"{total} weights do not fit into layers of {capacity.tolist()}")
    least = torch.minimum(capacity, torch.ones_like(capacity) if least is None else least)
    if total < int(least.sum()):
        least = torch.zeros_like(capacity)
    counts = torch.minimum(torch.maximum(ideal.floor().long(), least), capacity)
    while (missing := total - int(counts.sum())) != 0:
        step = 1 if missing > 0 else -1
        possible = counts < capacity if missing > 0 else counts > least
        wish = ((ideal - counts) * step).masked_fill(~possible, -torch.inf)
        # Rounding leaves less than one weight a layer; a larger gap (an ideal far from the total) is closed in bulk.
        bulk = max(1, abs(missing) // len(counts))
        index = int(wish.argmax())
        room = int(capacity[index] - counts[index] if missing > 0 else counts[index] - least[index])
        counts[index] += step * min(bulk, room)
    return counts
