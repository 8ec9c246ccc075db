"""Which patterns a mask may have: single weights, N of M, whole output channels."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from flash_pl.checks import check_integers
from flash_pl.sparsity.first_mask import layer_counts
from flash_pl.sparsity.layout import Layout, Slot
from flash_pl.sparsity.select import top_k, top_k_by_layer


class Structure(ABC):
    """Chooses weights of high score in patterns that hardware likes."""

    @abstractmethod
    def __call__(self, layout: Layout, scores: Tensor, counts: Tensor, among_equals: Tensor | None = None) -> Tensor:
        """A mask, bool ``[layout.maskable]``, of ``counts[l]`` weights of each layer, or as near as the pattern allows.

        Args:
            layout: the plan of the arena.
            scores: one a weight, ``[layout.maskable]`` or longer.
            counts: int64 ``[layers]``.
            among_equals: decides among equal scores where single weights are chosen.
        """


@dataclass(frozen=True)
class Unstructured(Structure):
    """The highest scores of each layer, wherever they are."""

    def __call__(self, layout: Layout, scores: Tensor, counts: Tensor, among_equals: Tensor | None = None) -> Tensor:
        return top_k_by_layer(layout, scores, counts, among_equals=among_equals)


@dataclass(frozen=True)
class NM(Structure):
    """N of every ``group`` weights that follow each other among the inputs of an output (N:M sparsity).

    Counts stay exact: where N = d_l M is no whole number, some groups have one weight more than others. Source: Zhou et
    al., Learning N:M fine-grained structured sparse neural networks from scratch, ICLR 2021.

    Args:
        group: M.

    Raises:
        ConfigError: M is less than 2.
    """

    group: int = 4

    def __post_init__(self) -> None:
        check_integers(2, group=self.group)

    def __call__(self, layout: Layout, scores: Tensor, counts: Tensor, among_equals: Tensor | None = None) -> Tensor:
        mask = torch.zeros(layout.maskable, dtype=torch.bool, device=scores.device)
        for slot, count in zip(layout.layers, counts.tolist(), strict=True):
            slot.view(mask).copy_(self._layer(slot.view(scores).flatten(1).cpu(), count).view(slot.shape))
        return mask

    def _layer(self, scores: Tensor, count: int) -> Tensor:
        """The mask of a layer with scores ``[outputs, inputs]`` on the CPU."""
        outputs, inputs = scores.shape
        filled = torch.nn.functional.pad(scores, (0, -inputs % self.group), value=-torch.inf)
        groups = filled.reshape(-1, self.group)
        place = groups.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True).float()
        # A weight's place in its group comes first, its score decides within a place.
        order = torch.empty(groups.numel(), dtype=torch.float64)
        by_score = groups.flatten().argsort(descending=True, stable=True)
        by_place = place.flatten()[by_score].argsort(stable=True)
        order[by_score[by_place]] = torch.arange(groups.numel(), 0, -1, dtype=torch.float64)
        order = order.masked_fill(groups.flatten().isneginf(), -torch.inf)
        return top_k(order, count).view(outputs, -1)[:, :inputs]


@dataclass(frozen=True)
class Channels(Structure):
    """Whole output channels, those of the highest mean score; at least one a layer."""

    def __call__(self, layout: Layout, scores: Tensor, counts: Tensor, among_equals: Tensor | None = None) -> Tensor:
        mask = torch.zeros(layout.maskable, dtype=torch.bool, device=scores.device)
        for slot, count in zip(layout.layers, counts.tolist(), strict=True):
            means = slot.view(scores).flatten(1).mean(dim=1)
            slot.view(mask)[top_k(means, self.channels(slot, count))] = True
        return mask

    def channels(self, slot: Slot, count: int) -> int:
        """How many output channels come nearest to ``count`` weights."""
        return max(1, round(count * slot.shape[0] / slot.shape.numel()))


@dataclass(frozen=True)
class StructuredDraw:
    """A random mask of a structure.

    Args:
        structure: of the mask.
    """

    structure: Structure

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        """A mask, bool ``[layout.maskable]``, with layer densities float64 ``[layers]``; ``weights`` do not act."""
        scores = torch.rand(layout.maskable, generator=generator)
        return self.structure(layout, scores, layer_counts(layout, densities))


def channel_mask(layout: Layout, ratio: Fraction | float) -> Tensor:
    """The first ceil(ratio C) output channels of every layer, fed by the first ceil(ratio C) of the layer before.

    Inputs of the first layer and the classes that the last one tells apart are all there. Where a layer's inputs are a
    multiple of the outputs before it (a linear layer behind flattened images), those of a channel stay together.
    Outputs and inputs of a grouped convolution are counted over all its groups.

    Args:
        layout: the plan of the arena; its layers follow each other in this order.
        ratio: in (0, 1]; as a float j / C may be a little more, and one channel too many.

    Returns:
        bool ``[layout.maskable]`` on the CPU.
    """
    mask = torch.zeros(layout.maskable, dtype=torch.bool)
    before = 0
    for slot, groups in zip(layout.layers, layout.groups, strict=True):
        outputs, inputs = slot.shape[0], slot.shape[1] * groups
        wide = math.ceil(ratio * outputs) if feeds_another(layout, slot) else outputs
        block = inputs // before if before and inputs % before == 0 else 1
        fed = math.ceil(ratio * (inputs // block)) * block if before else inputs
        for group, part in enumerate(slot.view(mask).chunk(groups)):  # of the outputs, each with inputs of its own
            first, start = group * outputs // groups, group * slot.shape[1]
            part[: max(0, wide - first), : max(0, fed - start)] = True
        before = outputs
    return mask


def feeds_another(layout: Layout, slot: Slot) -> bool:
    """Whether a layer's outputs are inputs of another one: of the next, or of one that is never masked."""
    if slot != layout.layers[-1]:
        return True
    return any(len(other.shape) > 1 and other.shape[1] % slot.shape[0] == 0 for other in layout.behind)


def widest(layout: Layout, density: float) -> Fraction:
    """The largest ratio j / C, C being the largest number of output channels, whose ``channel_mask`` has at most
    ``density`` n weights; 1 / C where none has."""
    channels = max(slot.shape[0] for slot in layout.layers)
    low, high = 1, channels
    while low < high:
        middle = (low + high + 1) // 2
        fits = int(channel_mask(layout, Fraction(middle, channels)).count_nonzero()) <= density * layout.maskable
        low, high = (middle, high) if fits else (low, middle - 1)
    return Fraction(low, channels)
