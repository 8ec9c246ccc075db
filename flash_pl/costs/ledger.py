"""All that a run keeps about its costs, in one place: the link, the bill and the fleet's clock."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.costs.fleet import Clock
from flash_pl.costs.flops import Flops
from flash_pl.costs.traffic import Link, Traffic, by_name
from flash_pl.errors import ConfigError
from flash_pl.server.updates import Ballot, Report
from flash_pl.wire import Message


class Bill(Stateful):
    """Adds up rounds.

    Attributes:
        flops: of the model; None while they are not known.
        totals: since the beginning of the run, stage 1 included: ``bytes_up``, ``bytes_down``, ``flops``.
    """

    def __init__(self) -> None:
        self.flops: Flops | None = None
        self.totals = {"bytes_up": 0, "bytes_down": 0, "flops": 0.0}

    def stage_1(self, up: int, down: int, flops: float) -> None:
        """Stage 1, over all its clients."""
        self._add({"bytes_up": up, "bytes_down": down, "flops": flops})

    def training(self, samples: int, report: Report | Ballot) -> float:
        """FLOPs of the training that a client reports, on ``samples`` samples; 0 where nothing is known."""
        if self.flops is None:
            return 0.0
        return samples * self.flops.training(report.trained, report.dense_gradients)

    def round(self, ballots: Sequence[Ballot], epochs: int, densities: Tensor) -> dict[str, float]:
        """The line of a round: bytes of all its clients in every convention, FLOPs of their training (also against
        dense training of the same samples) and of an inference with the server's mask, and the totals so far.

        Args:
            ballots: of all that trained, in time or late.
            epochs: that each client has trained.
            densities: of the server's mask, float64 ``[layers]``.
        """
        row = by_name(Traffic(), Traffic())
        for ballot in ballots:
            for name, value in ballot.costs.items():
                row[name] = row.get(name, 0) + value
        if self.flops is not None:
            flops, samples = self.flops, epochs * sum(ballot.samples for ballot in ballots)
            row["flops"] = sum(self.training(epochs * ballot.samples, ballot) for ballot in ballots)
            row["flops_ratio"] = row["flops"] / (samples * flops.training(flops.dense)) if samples else 0.0
            row["flops_inference"] = flops.forward(densities)
            row["flops_inference_ratio"] = row["flops_inference"] / flops.forward(flops.dense)
        self._add(row)
        return row | {f"{name}_total": value for name, value in self.totals.items() if name in row}

    def _add(self, spent: Mapping[str, float]) -> None:
        for name in self.totals:
            self.totals[name] += spent.get(name, 0)

    def state_dict(self) -> dict[str, Any]:
        return {"totals": dict(self.totals)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.totals = dict(state["totals"])


class CostLedger(Stateful):
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
