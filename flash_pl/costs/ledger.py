"""The costs of a run, added up round by round: bytes, FLOPs, and simulated time if there is a fleet."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.costs.fleet import Clock
from flash_pl.costs.flops import Flops
from flash_pl.costs.traffic import Link, Traffic, traffic_columns
from flash_pl.errors import ConfigError
from flash_pl.saved_state import LEDGER
from flash_pl.server import ClientUpdate
from flash_pl.wire import Message


class CostLedger(Stateful):
    """Counts what clients receive, compute and send.

    Args:
        link: carries models and updates, and counts their bytes.
        clock: of the fleet; None simulates no time.
        epochs: local epochs of a round.

    Attributes:
        flops: FLOPs of one sample in evaluation; None while they are unknown.
        training: FLOPs of one sample in training, those of evaluation until ``training_step`` has been counted.
        totals: ``bytes_up``, ``bytes_down`` and ``flops`` since the start of the run, stage 1 included, and
            ``fleet_seconds`` if there is a clock.
    """

    saved = LEDGER

    def __init__(self, link: Link, clock: Clock | None, epochs: int) -> None:
        self.link, self.clock, self.epochs = link, clock, epochs
        self.flops: Flops | None = None
        self.training: Flops | None = None
        self._totals: dict[str, float] = {"bytes_up": 0, "bytes_down": 0, "flops": 0.0}

    @property
    def totals(self) -> dict[str, float]:
        return self._totals | ({} if self.clock is None else {"fleet_seconds": self.clock.total})

    def start(self, flops: Flops | None) -> None:
        """Before a run; ``flops`` are the model's, None if they cannot be counted.

        Raises:
            ConfigError: there is a fleet, whose time cannot be simulated without FLOPs.
        """
        if flops is None and self.clock is not None:
            problem = "its time cannot be simulated: no validation_step runs the model to count its FLOPs"
            raise ConfigError("fleet", problem, "write a validation_step, or set fleet=null")
        self.flops = self.training = flops

    def training_flops(self, samples: int, update: ClientUpdate) -> float:
        """FLOPs of a client's training on ``samples`` samples; 0 while the model's FLOPs are unknown."""
        if self.training is None:
            return 0.0
        return samples * self.training.training(update.trained_densities, update.dense_gradients)

    def with_costs(self, update: ClientUpdate, down: Traffic, up: Traffic) -> ClientUpdate:
        """The update with the bytes of both ways and its time of arrival.

        A client that misses the deadline is ``late``; its upload is not counted.
        """
        if self.clock is None:
            return replace(update, costs=traffic_columns(down, up))
        flops = self.training_flops(update.trained_samples(self.epochs), update)
        seconds = self.clock.seconds(update.client, down.measured, flops, up.measured)
        late = self.clock.is_late(seconds)
        return replace(update, costs=traffic_columns(down, Traffic() if late else up), seconds=seconds, late=late)

    def add_first_stage(self, message: Message, mask_seed: int, flops: Mapping[int, float], numbers_sent: int) -> None:
        """Add stage 1.

        Args:
            message: weights and mask that every client receives.
            mask_seed: of the generator that drew the mask.
            flops: of each client's training, by the client's id.
            numbers_sent: how many numbers of 4 bytes each client sends.
        """
        down, up = self.link.codec.measure(message, seed=mask_seed).total, 4 * numbers_sent
        self._add({"bytes_up": up * len(flops), "bytes_down": down * len(flops), "flops": sum(flops.values())})
        if self.clock is not None:
            self.clock.add_first_stage([self.clock.seconds(client, down, spent, up) for client, spent in flops.items()])

    def add_round(self, attempts: Sequence[Sequence[ClientUpdate]], densities: Tensor) -> dict[str, float]:
        """Add a round; returns its columns of the metrics.

        The columns are the bytes of all clients in every convention, FLOPs of their training (also relative to dense
        training of the same samples) and of an inference with the server's mask, the share of FLOPs that this mask
        leaves in the maskable layers, totals, and seconds of the fleet. A client that failed reports no costs.

        Args:
            attempts: all updates of each attempt at the round, in time or late; the last attempt counted.
            densities: layer densities of the server's mask, float64 ``[layers]``.
        """
        updates = [update for attempt in attempts for update in attempt]
        row = traffic_columns(Traffic(), Traffic())
        for update in updates:
            for name, value in update.costs.items():
                row[name] = row.get(name, 0) + value
        if self.flops is not None and self.training is not None:
            flops, samples = self.flops, sum(update.trained_samples(self.epochs) for update in updates)
            row["flops"] = sum(self.training_flops(update.trained_samples(self.epochs), update) for update in updates)
            dense = samples * self.training.training(self.training.dense)
            row["flops_ratio"] = row["flops"] / dense if samples else 0.0
            row["flops_inference"] = flops.forward(densities)
            row["flops_inference_ratio"] = row["flops_inference"] / flops.forward(flops.dense)
            row["density_flops"] = flops.density(densities)
        self._add(row)
        row |= {f"{name}_total": value for name, value in self._totals.items() if name in row}
        if self.clock is not None:
            row |= self.clock.add_round([[update.seconds for update in attempt] for attempt in attempts])
        return row

    def _add(self, spent: Mapping[str, float]) -> None:
        for name in self._totals:
            self._totals[name] += spent.get(name, 0)

    def compared_state(self) -> dict[str, Any]:
        clock = {} if self.clock is None else {"clock": self.clock.compared_state()}
        return {"client masks": self.link.compared_state(), "totals": self._totals} | clock

    def state_dict(self) -> dict[str, Any]:
        clock = {} if self.clock is None else {"clock": self.clock.state_dict()}
        return {"link": self.link.state_dict(), "totals": dict(self._totals)} | clock

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "clock" in state and self.clock is None:
            raise ConfigError("fleet", "null, but the checkpoint simulates a fleet", "give the fleet of the checkpoint")
        if "clock" not in state and self.clock is not None:
            raise ConfigError("fleet", "given, but the checkpoint simulates none", "set fleet=null")
        self.link.load_state_dict(state["link"])
        self._totals = dict(state["totals"])
        if self.clock is not None:
            self.clock.load_state_dict(state["clock"])
