"""Random first masks and scales of the initial weights."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.sparsity import Layout, random_k
from flash_pl.sparsity.first_mask import layer_counts


@dataclass(frozen=True)
class BalancedDraw:
    """A random mask in which each output of a layer has the same number of inputs, and each input nearly so."""

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        mask = torch.zeros(layout.maskable, dtype=torch.bool)
        for slot, count in zip(layout.layers, layer_counts(layout, densities).tolist(), strict=True):
            outputs, inputs = slot.shape[0], slot.shape[1:].numel()
            slot.view(mask).copy_(balanced(outputs, inputs, count, generator).view(slot.shape))
        return mask


def balanced(rows: int, columns: int, count: int, generator: torch.Generator) -> Tensor:
    """A random table with ``count`` ones, spread evenly over rows and columns, bool ``[rows, columns]``.

    Each row takes the next columns of a shuffled list; when the list is used up, a newly shuffled one follows.
    """
    lengths = torch.full((rows,), count // rows)
    lengths[random_k(torch.ones(rows, dtype=torch.bool), count % rows, generator)] += 1
    table = torch.zeros(rows, columns, dtype=torch.bool)
    shuffled = torch.randperm(columns, generator=generator)
    for row, length in enumerate(lengths.tolist()):
        taken, shuffled = shuffled[:length], shuffled[length:]
        if (missing := length - len(taken)) > 0:  # a new list; columns that the row already has come last
            used = torch.zeros(columns, dtype=torch.bool)
            used[taken] = True
            refill = torch.randperm(columns, generator=generator)
            refill = torch.cat([refill[~used[refill]], refill[used[refill]]])
            taken, shuffled = torch.cat([taken, refill[:missing]]), refill[missing:]
        table[row, taken] = True
    return table


@dataclass(frozen=True)
class NormPreserving:
    """Scale the kept weights of each layer so that their norm is ``scale`` times that of the dense layer."""

    scale: float = 1.0

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None:
        for slot in layout.layers:
            dense = slot.view(weights).double()
            kept = dense * slot.view(mask)
            if kept.any():
                slot.view(weights).mul_(self.scale * float(dense.norm() / kept.norm()))


@dataclass(frozen=True)
class NarrowDraw:
    """A random mask inside a narrow network: a share ``width`` of the units, more weights per unit.

    All inputs of the first layer and all outputs of the last layer stay. If the narrow network has fewer places in a
    layer than the layer has active weights, the remaining weights are drawn outside it.
    """

    width: float = 0.5

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        mask = torch.zeros(layout.maskable, dtype=torch.bool)
        counts = layer_counts(layout, densities).tolist()
        for index, (slot, count) in enumerate(zip(layout.layers, counts, strict=True)):
            outputs, inputs = slot.shape[:2]
            inside = torch.zeros(slot.shape, dtype=torch.bool)
            rows = outputs if index + 1 == len(counts) else math.ceil(self.width * outputs)
            inside[:rows, : inputs if index == 0 else math.ceil(self.width * inputs)] = True
            inside = inside.flatten()
            within = random_k(inside, min(count, int(inside.sum())), generator)
            outside = random_k(~inside, count - int(within.sum()), generator)
            slot.view(mask).copy_((within | outside).view(slot.shape))
        return mask
