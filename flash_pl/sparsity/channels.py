"""Masks of whole channels: a narrow network inside a wide one."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from flash_pl.sparsity.layout import Layout, Slot


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
