"""The way between server and clients: everything that is sent goes through here and is counted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flash_pl.costs.traffic import Traffic, price
from flash_pl.errors import ConfigError
from flash_pl.report import Ballot, Report
from flash_pl.sparsity import Layout, MaskStore
from flash_pl.state import Stateful
from flash_pl.wire import VALUE_TYPES, Codec, Message


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
