"""Simulated time: the devices of an edge fleet and how long a round takes on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flash_pl.checkpoint import Stateful
from flash_pl.checks import check_numbers
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.seeding import generator
from flash_pl.sparsity import allot


@dataclass(frozen=True)
class Device:
    """A class of devices.

    Args:
        kind: name of the class.
        downlink, uplink: of its links, in bit/s.
        flops: FLOP/s at which it trains.
        share: of all clients.

    >>> Device("phone", downlink=8e6, uplink=8e6, flops=1e9).seconds(down=1e6, flops=3e9, up=1e6)
    5.0
    """

    kind: str
    downlink: float
    uplink: float
    flops: float
    share: float = 1.0

    def seconds(self, down: float, flops: float, up: float) -> float:
        """Time to receive ``down`` bytes, compute ``flops`` and send ``up`` bytes, one after the other."""
        return 8 * down / self.downlink + flops / self.flops + 8 * up / self.uplink


class Fleet:
    """The devices of the clients.

    Args:
        devices: classes with their shares.
        deadline: seconds after which the server closes a round; later updates are left out. None waits for the
            slowest client.

    Raises:
        ConfigError: a speed or a deadline that is not above 0, shares that do not sum to 1.

    >>> phone = Device("phone", downlink=50e6, uplink=10e6, flops=50e9, share=0.5)
    >>> board = Device("board", downlink=90e6, uplink=50e6, flops=10e9, share=0.5)
    >>> devices = Fleet([phone, board], deadline=20).assign(clients=4, tiers=None, seed=1)
    >>> sorted(device.kind for device in devices)
    ['board', 'board', 'phone', 'phone']
    """

    def __init__(self, devices: Sequence[Device], deadline: float | None = None) -> None:
        for device in devices:
            for key in ("downlink", "uplink", "flops", "share"):
                check_numbers("(0, inf)", **{f"devices.{device.kind}.{key}": getattr(device, key)})
        shares = [device.share for device in devices]
        if abs(sum(shares) - 1) > 1e-6:
            raise ConfigError("devices", f"the shares {as_yaml(shares)} do not sum to 1")
        check_numbers("(0, inf)", optional=True, deadline=deadline)
        self.devices, self.deadline = tuple(sorted(devices, key=lambda device: device.flops)), deadline

    def assign(self, clients: int, tiers: Sequence[int] | None, seed: int) -> list[Device]:
        """Draw the device that every client 0..N-1 keeps for the run.

        Each class gets round(share * N) clients, but at least one as long as there are enough clients.

        Args:
            clients: N.
            tiers: of each client, 0 for the smallest; clients of smaller tiers get slower devices. None ignores tiers.
            seed: of the run.
        """
        order = torch.randperm(clients, generator=generator(seed, "fleet")).tolist()
        if tiers is not None:
            order.sort(key=lambda client: tiers[client])
        shares = torch.tensor([device.share for device in self.devices], dtype=torch.float64)
        counts = allot(shares * clients, torch.full((len(shares),), clients), clients).tolist()
        classes = [device for device, count in zip(self.devices, counts, strict=True) for _ in range(count)]
        return [device for _, device in sorted(zip(order, classes, strict=True), key=lambda pair: pair[0])]


class Clock(Stateful):
    """Turns bytes and theoretical FLOPs into the seconds of devices whose kernels skip pruned weights.

    Args:
        devices: of the clients 0..N-1.
        deadline: of a round in seconds; None waits for the slowest client.

    Attributes:
        total: seconds since the start of the run, stage 1 included.

    >>> clock = Clock([Device("phone", 8e6, 8e6, 1e9)], deadline=4.0)
    >>> clock.add_round([[clock.seconds(0, down=1e6, flops=3e9, up=1e6)]])
    {'fleet_seconds': 4.0, 'fleet_seconds_total': 4.0, 'late': 1}
    """

    def __init__(self, devices: Sequence[Device], deadline: float | None = None) -> None:
        self.devices, self.deadline, self.total = devices, deadline, 0.0

    def seconds(self, client: int, down: float, flops: float, up: float) -> float:
        """Seconds from the start of the round until the client's update arrives."""
        return self.devices[client].seconds(down, flops, up)

    def is_late(self, seconds: float) -> bool:
        """Whether an update that arrives after ``seconds`` misses the deadline."""
        return self.deadline is not None and seconds > self.deadline

    def add_first_stage(self, seconds: Sequence[float]) -> None:
        """Add stage 1, which ends with its slowest client and has no deadline."""
        self.total += max(seconds, default=0.0)

    def add_round(self, attempts: Sequence[Sequence[float]]) -> dict[str, float]:
        """Add a round, which ends with its slowest client or at the deadline; returns its columns of the metrics.

        Args:
            attempts: arrivals in each attempt at the round, in seconds; attempts follow each other, the last counted.
        """
        spent = sum(min(max(seconds, default=0.0), self.deadline or math.inf) for seconds in attempts)
        late = sum(map(self.is_late, attempts[-1]))
        self.total += spent
        columns: dict[str, float] = {"fleet_seconds": spent, "fleet_seconds_total": self.total}
        return columns | ({} if self.deadline is None else {"late": late})

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]
