"""One mask a tier, each inside the next larger one."""

from collections.abc import Sequence

from torch import Tensor

from flash_pl.sparsity.density import allot
from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.select import top_k_by_layer


def nested_masks(layout: Layout, mask: Tensor, weights: Tensor, ratios: Sequence[float]) -> list[Tensor]:
    """Nested masks of ``ratios`` times the active weights of ``mask`` (hetero-FLASH): the last one is ``mask`` itself.

    Each layer's budget is the largest mask's in proportion, rounded so that the total is exact, and none is left empty
    while the total allows one weight for each. Inside it the weights of largest magnitude are kept, ties by position.

    Args:
        layout: the plan of the arena.
        mask: of the largest tier, bool ``[layout.maskable]``.
        weights: the server's arena ``[layout.size]``, by whose magnitude weights are kept.
        ratios: increasing, in (0, 1], the last one 1.

    Returns:
        bool ``[layout.maskable]`` for each of the ratios.
    """
    masks, largest = [mask], layout.counts(mask)
    counts, magnitude = largest, weights.abs()
    for ratio in reversed(ratios[:-1]):
        counts = allot(ratio * largest.double(), counts, round(ratio * int(largest.sum())))
        masks.append(top_k_by_layer(layout, magnitude, counts, within=masks[-1]))
    return masks[::-1]
