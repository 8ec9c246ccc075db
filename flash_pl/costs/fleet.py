"""The devices of an edge fleet: how fast they compute and how fast their links are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flash_pl.checkpoint import Stateful
from flash_pl.errors import ConfigError
from flash_pl.seeding import generator
from flash_pl.sparsity import allot


@dataclass(frozen=True)
class Device:
    """A class of devices: its links in bit/s, the FLOP/s at which it trains, and its share of all clients."""

    kind: str
    downlink: float
    uplink: float
    flops: float
    share: float = 1.0

    def seconds(self, down: float, flops: float, up: float) -> float:
        """How long it takes to receive ``down`` bytes, compute ``flops`` and send ``up`` bytes, one after the other."""
        return 8 * down / self.downlink + flops / self.flops + 8 * up / self.uplink


class Fleet:
    """What devices the clients are.

    Args:
        devices: classes with their shares.
        deadline: seconds after which the server closes a round: whose report is not there by then is left out. None
            waits for the slowest.

    Raises:
        ConfigError: a speed or a deadline that is not above 0, shares that do not sum to 1.
    """

    def __init__(self, devices: Sequence[Device], deadline: float | None = None) -> None:
        for device in devices:
            for key in ("downlink", "uplink", "flops", "share"):
                if not 0 < getattr(device, key) < float("inf"):
                    raise ConfigError(f"devices.{device.kind}.{key}", getattr(device, key), "a number above 0")
        shares = [device.share for device in devices]
        if abs(sum(shares) - 1) > 1e-6:
            raise ConfigError("devices", shares, "shares that sum to 1")
        if deadline is not None and not 0 < deadline < float("inf"):
            raise ConfigError("deadline", deadline, "a number of seconds above 0, or null")
        self.devices, self.deadline = tuple(sorted(devices, key=lambda device: device.flops)), deadline

    def deal(self, clients: int, tiers: Sequence[int] | None, seed: int) -> list[Device]:
        """The device of every client 0..N-1 for life: round(share * N) of each class, but at least one as long as
        there are enough, drawn by the seed.

        Args:
            tiers: what each client affords, 0 for the least, or None: who affords less has the slower device.
        """
        order = torch.randperm(clients, generator=generator(seed, "fleet")).tolist()
        if tiers is not None:
            order.sort(key=lambda client: tiers[client])
        shares = torch.tensor([device.share for device in self.devices], dtype=torch.float64)
        counts = allot(shares * clients, torch.full((len(shares),), clients), clients).tolist()
        classes = [device for device, count in zip(self.devices, counts, strict=True) for _ in range(count)]
        return [device for _, device in sorted(zip(order, classes, strict=True), key=lambda pair: pair[0])]


class Clock(Stateful):
    """Turns bytes and theoretical FLOPs into seconds: of devices whose kernels skip what the mask leaves out.

    Args:
        devices: of the clients 0..N-1.
        deadline: of a round in seconds; None waits for the slowest client.

    Attributes:
        total: seconds since the beginning of the run, stage 1 included.
    """

    def __init__(self, devices: Sequence[Device], deadline: float | None = None) -> None:
        self.devices, self.deadline, self.total = devices, deadline, 0.0

    def seconds(self, client: int, down: float, flops: float, up: float) -> float:
        """When a client's report arrives, counted from the beginning of the round."""
        return self.devices[client].seconds(down, flops, up)

    def is_late(self, seconds: float) -> bool:
        """Whether the round is closed by then."""
        return self.deadline is not None and seconds > self.deadline

    def stage_1(self, seconds: Sequence[float]) -> None:
        """Stage 1 ends with its slowest client; it has no deadline."""
        self.total += max(seconds, default=0.0)

    def round(self, attempts: Sequence[Sequence[float]]) -> dict[str, float]:
        """A round in which the clients' reports come after some seconds: it ends with the slowest or at the deadline.

        Args:
            attempts: the seconds of each attempt; the last one counts, the others took their time before it.
        """
        spent = sum(min(max(seconds, default=0.0), self.deadline or math.inf) for seconds in attempts)
        late = sum(map(self.is_late, attempts[-1]))
        self.total += spent
        return {"fleet_seconds": spent, "fleet_seconds_total": self.total} | (
            {"late": late} if self.deadline is not None else {}
        )

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]
