"""All that a run keeps about its costs, in one place: the link, the bill and the fleet's clock."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from flash_pl.costs.bill import Bill
from flash_pl.costs.clock import Clock
from flash_pl.costs.flops import Flops
from flash_pl.costs.link import Link
from flash_pl.costs.traffic import Traffic, by_name
from flash_pl.errors import ConfigError
from flash_pl.report import Ballot, Report
from flash_pl.state import Stateful
from flash_pl.wire import Message


class Accounts(Stateful):
    """Counts what clients receive, compute and send.

    Args:
        link: carries models and reports.
        clock: of the fleet; None simulates no time.
        epochs: that a client trains in a round.

    Attributes:
        bill: the sums.
    """

    def __init__(self, link: Link, clock: Clock | None, epochs: int) -> None:
        self.link, self.clock, self.epochs, self.bill = link, clock, epochs, Bill()

    def open(self, flops: Flops | None) -> None:
        """Before a run; ``flops`` are the model's, None if they cannot be counted.

        Raises:
            ConfigError: time cannot be simulated without them.
        """
        if flops is None and self.clock is not None:
            raise ConfigError("fleet", "...", "null, or a module with a validation_step whose FLOPs can be counted")
        self.bill.flops = flops

    def settle(self, report: Report, down: Traffic, up: Traffic) -> Report:
        """The report with its costs. One that comes after the deadline is ``late``, and nothing of it is sent."""
        if self.clock is None:
            return replace(report, costs=by_name(down, up))
        flops = self.bill.training(self.epochs * report.samples, report)
        seconds = self.clock.seconds(report.client, down.measured, flops, up.measured)
        late = self.clock.is_late(seconds)
        return replace(report, costs=by_name(down, Traffic() if late else up), seconds=seconds, late=late)

    def stage_1(self, message: Message, seed: int, flops: Mapping[int, float], numbers: int) -> None:
        """Stage 1: every client gets ``message``, trains, and sends so many ``numbers`` of 4 bytes.

        Args:
            seed: of the generator that drew the message's mask.
            flops: of each client's training.
        """
        down, up = self.link.codec.measure(message, seed=seed).total, 4 * numbers
        self.bill.stage_1(up * len(flops), down * len(flops), sum(flops.values()))
        if self.clock is not None:
            self.clock.stage_1([self.clock.seconds(client, down, spent, up) for client, spent in flops.items()])

    def round(self, attempts: Sequence[Sequence[Ballot]], densities: Tensor) -> dict[str, float]:
        """The costs of a round, see ``Bill.round`` and ``Clock.round``: of all that trained in each attempt, in time or
        late. A client that failed tells nothing of what it has cost."""
        row = self.bill.round([ballot for attempt in attempts for ballot in attempt], self.epochs, densities)
        if self.clock is not None:
            row |= self.clock.round([[ballot.seconds for ballot in attempt] for attempt in attempts])
        return row

    @property
    def totals(self) -> dict[str, float]:
        """Bytes and FLOPs so far, and simulated seconds if there is a clock."""
        return self.bill.totals | ({} if self.clock is None else {"fleet_seconds": self.clock.total})

    def _parts(self) -> dict[str, Stateful]:
        return {"link": self.link, "bill": self.bill} | ({} if self.clock is None else {"clock": self.clock})

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if ("clock" in state) != (self.clock is not None):
            had = "the one" if "clock" in state else "none,"
            raise ConfigError("fleet", "..." if self.clock else None, f"{had} as in the checkpoint")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
