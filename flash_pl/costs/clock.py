"""Simulated time: how long a round would take on a fleet of devices."""

import math
from collections.abc import Sequence
from typing import Any

from flash_pl.costs.fleet import Device
from flash_pl.state import Stateful


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
