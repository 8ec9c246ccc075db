"""Bytes between server and clients: everything that is sent goes through ``Link`` and is counted there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.checks import check_choice
from flash_pl.errors import MessageError, ServerError
from flash_pl.server import ClientUpdate
from flash_pl.sparsity import Layout, MaskStore
from flash_pl.wire import VALUE_TYPES, Codec, MaskKind, Message, Sizes


@dataclass(frozen=True)
class WireFormat:
    """How models are sent.

    Args:
        values: type of the active weights: fp32, fp16 or bf16. Weights of a longer type arrive rounded.
        compress: also try a compressed bitmap for the mask, and send it where it is the shortest.
        verify: encode every message whole and use what the receiver decodes. Without it, mask bytes are made and value
            bytes only counted; the result is the same.

    >>> WireFormat(values="fp8")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: values: 'fp8' is not one of fp32, fp16, bf16
    """

    values: str = "fp32"
    compress: bool = False
    verify: bool = False

    def __post_init__(self) -> None:
        check_choice(*VALUE_TYPES, values=self.values)


@dataclass(frozen=True)
class Traffic:
    """Bytes of one message, or of several, in the four conventions of the field.

    >>> Traffic(measured=9, values=4) + Traffic(measured=7, values=4)
    Traffic(measured=16, entropy=0.0, bitmap=0.0, values=8, once=0)

    Attributes:
        measured: length of the payload.
        entropy: length with an ideal code of a random mask, values + sum_l n_l H(d_l) / 8 + rest.
        bitmap: length with one bit per maskable weight for the mask (FedDST's convention).
        values: the active weights alone, as most papers count.
        once: the part of ``measured`` that a client pays a single time, the first mask.

    In ``entropy`` and ``bitmap`` a mask that the receiver has, or draws from a seed, costs nothing.
    """

    measured: int = 0
    entropy: float = 0.0
    bitmap: float = 0.0
    values: int = 0
    once: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @classmethod
    def of(cls, layout: Layout, mask: Tensor, sizes: Sizes, first: bool = False) -> "Traffic":
        """The traffic of one message.

        Args:
            layout: of the model in it.
            mask: of that model, bool ``[layout.maskable]``.
            sizes: of the payload's parts.
            first: the receiver has had no mask before.
        """
        unmasked = sizes.values + sizes.rest
        known = sizes.kind in (MaskKind.REFERENCE, MaskKind.SEED)
        return cls(
            measured=sizes.total,
            entropy=unmasked + (0.0 if known else entropy_bits(layout, mask) / 8),
            bitmap=unmasked + (0.0 if known else layout.maskable / 8),
            values=sizes.values,
            once=sizes.mask if first else 0,
        )


def traffic_columns(down: Traffic, up: Traffic) -> dict[str, float]:
    """The traffic of a client in a round by the columns of the metrics.

    >>> traffic_columns(Traffic(9, 8.5, 8.0, 4, 1), Traffic(7, 6.5, 6.0, 4))["bytes_down_entropy"]
    8.5
    """
    columns: dict[str, float] = {"bytes_once": down.once + up.once}
    for name, traffic in (("bytes_down", down), ("bytes_up", up)):
        columns[name] = traffic.measured
        columns |= {f"{name}_{part}": getattr(traffic, part) for part in ("entropy", "bitmap", "values")}
    return columns


def entropy_bits(layout: Layout, mask: Tensor) -> float:
    """sum_l n_l H(d_l): no code for random masks of these layer densities is shorter on average.

    >>> entropy_bits(Layout(torch.nn.Linear(4, 1, bias=False)), torch.tensor([True, False, True, False]))
    4.0
    """
    bits = 0.0
    for size, d in zip(layout.sizes.tolist(), layout.densities(mask).tolist(), strict=True):
        if 0 < d < 1:
            bits -= size * (d * math.log2(d) + (1 - d) * math.log2(1 - d))
    return bits


class Link(Stateful):
    """Sends models to clients and updates to the server, and counts the bytes.

    Server and client both remember the mask with which the client ended its last round, so a later mask can be sent as
    the difference to it.

    Args:
        layout: of the model.
        format: how models are sent.
        seed: of the generator that draws the first mask. A client without a mask gets this seed in place of the mask,
            as long as the seed draws that mask.
    """

    def __init__(self, layout: Layout, format: WireFormat | None = None, seed: int | None = None) -> None:
        format = format or WireFormat()
        self.layout, self.codec, self.seed = layout, Codec(layout, format.values, format.compress), seed
        self.verify, self.rounds_values = format.verify, format.values != "fp32"
        self.masks = MaskStore()

    def previous_mask(self, client: int, device: torch.device) -> Tensor | None:
        """The mask of the client's last round, bool ``[maskable]`` on ``device``; None before its first round."""
        return self.masks.get(client, device)

    def down(self, weights: Tensor, mask: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor, Traffic]:
        """Send the server's arena ``weights`` ``[size]`` under ``mask`` to a client whose last mask is ``previous``.

        Returns:
            Weights and mask as they arrive, and the traffic.

        Raises:
            ServerError: a weight is not finite, or too large for the type in which it is sent.
        """
        message, first = Message(weights, mask), previous is None
        seed = self.seed if first else None
        if not self._must_decode(weights):
            sizes = self.codec.measure(message, previous, seed)
            return weights, mask, Traffic.of(self.layout, mask, sizes, first)
        try:
            payload = self.codec.encode(message, previous, seed)
        except MessageError as error:
            hint = "; use wire.values=fp32 or bf16" if self.codec.values == "fp16" else ""
            raise ServerError(f"the server's model cannot be sent: {error}{hint}") from error
        arrived = self.codec.decode(payload.data, previous)
        traffic = Traffic.of(self.layout, mask, payload.sizes, first)
        return self._with_frozen(arrived.weights, weights), arrived.mask.to(mask.device), traffic

    def up(self, update: ClientUpdate, weights: Tensor, received: Tensor) -> tuple[ClientUpdate, Tensor, Traffic]:
        """Send a client's ``update`` and its arena ``weights`` ``[size]`` to the server.

        Args:
            received: the mask that the client got, to which both sides refer.

        Returns:
            Update and weights as they arrive, and the traffic.

        Raises:
            MessageError: the update cannot be sent, see ``Codec.encode``, or it has no samples.
        """
        if update.samples == 0:  # which the server alone may send
            raise MessageError("it has no samples")
        message = Message(weights, update.mask, update.samples, update.extra)
        if not self._must_decode(weights):
            sizes = self.codec.measure(message, received)
            return update, weights, Traffic.of(self.layout, update.mask, sizes)
        payload = self.codec.encode(message, received)
        arrived, device = self.codec.decode(payload.data, received), weights.device
        extra = {name: tensor.to(device) for name, tensor in arrived.extra.items()}
        decoded = replace(update, mask=arrived.mask.to(device), samples=arrived.samples, extra=extra)
        return decoded, self._with_frozen(arrived.weights, weights), Traffic.of(self.layout, update.mask, payload.sizes)

    def _with_frozen(self, arrived: Tensor, weights: Tensor) -> Tensor:
        """The arena that arrived, with the frozen parameters that the receiver has as the sender has them."""
        frozen = self.layout.frozen
        if frozen == self.layout.size:
            return arrived.to(weights.device)
        return torch.cat([arrived[:frozen].to(weights), weights[frozen:]])

    def _must_decode(self, weights: Tensor) -> bool:
        """Whether the receiver uses decoded bytes: they may be rounded, or are to be verified."""
        return self.verify or self.rounds_values or weights.dtype == torch.float64

    def remember(self, updates: Sequence[ClientUpdate]) -> None:
        """Remember the masks with which clients have ended a round."""
        for update in updates:
            self.masks.put(update.client, update.mask)

    def state_dict(self) -> dict[str, Any]:
        return self.masks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.masks.load_state_dict(state)

    def compared_state(self) -> dict[str, Any]:
        return self.masks.compared_state()
