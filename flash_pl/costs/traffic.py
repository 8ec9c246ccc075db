"""What a message costs, in the four ways in which the field counts."""

import math
from dataclasses import dataclass

from torch import Tensor

from flash_pl.sparsity import Layout
from flash_pl.wire import MaskKind, Sizes


@dataclass(frozen=True)
class Traffic:
    """Bytes of one message or of several.

    ``measured`` is the length of the payload; ``entropy`` what an ideal code of a random mask would need, values +
    sum_l n_l H(d_l) / 8 + rest; ``bitmap`` counts a bit a maskable weight for the mask (FedDST's convention);
    ``values`` counts the active weights alone, as most papers do. In the second and third a mask that the receiver has,
    or can draw from a seed, costs nothing. ``once`` is the part of ``measured`` that a client pays a single time: the
    first mask.
    """

    measured: int = 0
    entropy: float = 0.0
    bitmap: float = 0.0
    values: int = 0
    once: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Traffic(*(one + another for one, another in pairs))


def by_name(down: Traffic, up: Traffic) -> dict[str, float]:
    """The traffic of a client in a round by the names of the metrics.

    >>> by_name(Traffic(9, 8.5, 8.0, 4, 1), Traffic(7, 6.5, 6.0, 4))["bytes_down_entropy"]
    8.5
    """
    found: dict[str, float] = {"bytes_once": down.once + up.once}
    for name, traffic in (("bytes_down", down), ("bytes_up", up)):
        found[name] = traffic.measured
        found |= {f"{name}_{part}": getattr(traffic, part) for part in ("entropy", "bitmap", "values")}
    return found


def price(layout: Layout, mask: Tensor, sizes: Sizes, first: bool = False) -> Traffic:
    """The traffic of one message.

    Args:
        mask: of the model in it, bool ``[layout.maskable]``.
        sizes: of its payload.
        first: the receiver has had no mask before.
    """
    plain = sizes.values + sizes.rest
    known = sizes.kind in (MaskKind.REFERENCE, MaskKind.SEED)
    return Traffic(
        measured=sizes.total,
        entropy=plain + (0.0 if known else entropy_bits(layout, mask) / 8),
        bitmap=plain + (0.0 if known else layout.maskable / 8),
        values=sizes.values,
        once=sizes.mask if first else 0,
    )


def entropy_bits(layout: Layout, mask: Tensor) -> float:
    """sum_l n_l H(d_l): no code for random masks of these layer densities is shorter on average."""
    bits = 0.0
    for size, d in zip(layout.sizes.tolist(), layout.densities(mask).tolist(), strict=True):
        if 0 < d < 1:
            bits -= size * (d * math.log2(d) + (1 - d) * math.log2(1 - d))
    return bits
