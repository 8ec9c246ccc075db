"""Places and sizes of initial weights."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.sparsity import Layout, random_k
from flash_pl.sparsity.first_mask import layer_counts


@dataclass(frozen=True)
class BalancedDraw:
    """A random mask in which all outputs of a layer have as many inputs, and all inputs about as many outputs."""

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        mask = torch.zeros(layout.maskable, dtype=torch.bool)
        for slot, count in zip(layout.layers, layer_counts(layout, densities).tolist(), strict=True):
            outputs, inputs = slot.shape[0], slot.shape[1:].numel()
            slot.view(mask).copy_(balanced(outputs, inputs, count, generator).view(slot.shape))
        return mask


def balanced(rows: int, columns: int, count: int, generator: torch.Generator) -> Tensor:
    """A table with ``count`` ones, dealt to the rows in turn out of shuffled columns, bool ``[rows, columns]``."""
    lengths = torch.full((rows,), count // rows)
    lengths[random_k(torch.ones(rows, dtype=torch.bool), count % rows, generator)] += 1
    table = torch.zeros(rows, columns, dtype=torch.bool)
    deck = torch.randperm(columns, generator=generator)
    for row, length in enumerate(lengths.tolist()):
        taken, deck = deck[:length], deck[length:]
        if (missing := length - len(taken)) > 0:  # the next deck, without what the row already has
            used = torch.zeros(columns, dtype=torch.bool)
            used[taken] = True
            fresh = torch.randperm(columns, generator=generator)
            fresh = torch.cat([fresh[~used[fresh]], fresh[used[fresh]]])
            taken, deck = torch.cat([taken, fresh[:missing]]), fresh[missing:]
        table[row, taken] = True
    return table


@dataclass(frozen=True)
class NormPreserving:
    """The kept weights of a layer get the norm of all of them, times ``scale``."""

    scale: float = 1.0

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None:
        for slot in layout.layers:
            whole, kept = slot.view(weights).double(), slot.view(weights).double() * slot.view(mask)
            if kept.any():
                slot.view(weights).mul_(self.scale * float(whole.norm() / kept.norm()))


@dataclass(frozen=True)
class NarrowDraw:
    """A random mask within the network's first ``width`` of units: fewer units, more weights for each.

    Inputs of the first layer and outputs of the last one are all there; a layer that has no room for its weights in
    the narrow network has the rest of them outside.
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
