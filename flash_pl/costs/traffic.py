"""What a message costs, in the four ways in which the field counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.errors import ConfigError
from flash_pl.server.updates import Ballot, Report
from flash_pl.sparsity import Layout, MaskStore
from flash_pl.wire import VALUE_TYPES, Codec, MaskKind, Message, Sizes


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


@dataclass(frozen=True)
class WireFormat:
    """How models are sent.

    Args:
        values: type of the active weights, fp32, fp16 or bf16; what a shorter one than the model's cannot hold arrives
            rounded.
        compress: also try a compressed bitmap for the mask.
        verify: what arrives is what was decoded from the bytes. Otherwise the bytes of the mask are made and those of
            the values only counted; the result is the same.

    Raises:
        ConfigError: no such type.
    """

    values: str = "fp32"
    compress: bool = False
    verify: bool = False

    def __post_init__(self) -> None:
        if self.values not in VALUE_TYPES:
            raise ConfigError("values", self.values, f"one of {', '.join(VALUE_TYPES)}")


class Link(Stateful):
    """Sends models to clients and reports to the server.

    It remembers the mask that each client holds: the one with which it ended its last round. Both sides know that one,
    so a later mask can be written as the difference to it.

    Args:
        layout: of the model.
        format: how it is sent.
        seed: of the generator that draws the first mask: to a client that has none yet the seed is sent, as long as
            that is the mask.
    """

    def __init__(self, layout: Layout, format: WireFormat | None = None, seed: int | None = None) -> None:
        format = format or WireFormat()
        self.layout, self.codec, self.seed = layout, Codec(layout, format.values, format.compress), seed
        self.verify, self.rounds = format.verify, format.values != "fp32"
        self.masks = MaskStore()

    def held(self, client: int) -> Tensor | None:
        """The mask that the client holds, bool ``[maskable]`` on the CPU; None before its first round."""
        return self.masks.get(client)

    def down(self, weights: Tensor, mask: Tensor, held: Tensor | None) -> tuple[Tensor, Tensor, Traffic]:
        """The server's arena ``weights`` ``[size]`` under ``mask``, as a client that has ``held`` gets them, and what
        that costs."""
        message, first = Message(weights, mask), held is None
        seed = self.seed if first else None
        if not self._decodes(weights):
            return weights, mask, price(self.layout, mask, self.codec.measure(message, held, seed), first)
        payload = self.codec.encode(message, held, seed)
        found = self.codec.decode(payload.data, held)
        traffic = price(self.layout, mask, payload.sizes, first)
        return found.weights.to(weights.device), found.mask.to(mask.device), traffic

    def up(self, report: Report, received: Tensor) -> tuple[Report, Traffic]:
        """A client's report as the server gets it; ``received`` is the mask that was sent to the client."""
        message = Message(report.weights, report.mask, report.samples, report.extra)
        if not self._decodes(report.weights):
            return report, price(self.layout, report.mask, self.codec.measure(message, received))
        payload = self.codec.encode(message, received)
        found = self.codec.decode(payload.data, received)
        device = report.weights.device
        arrived = replace(
            report,
            weights=found.weights.to(device),
            mask=found.mask.to(device),
            samples=found.samples,
            extra={name: tensor.to(device) for name, tensor in found.extra.items()},
        )
        return arrived, price(self.layout, report.mask, payload.sizes)

    def _decodes(self, weights: Tensor) -> bool:
        """Whether what arrives must be decoded: it may be rounded, or is to be verified."""
        return self.verify or self.rounds or weights.dtype == torch.float64

    def remember(self, ballots: Sequence[Ballot]) -> None:
        """The round has ended; its clients hold these masks."""
        for ballot in ballots:
            self.masks.put(ballot.client, ballot.mask)

    def state_dict(self) -> dict[str, Any]:
        return self.masks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.masks.load_state_dict(state)
