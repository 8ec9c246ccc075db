"""What a run has cost so far, round by round."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from flash_pl.costs.flops import Flops
from flash_pl.costs.traffic import Traffic, by_name
from flash_pl.report import Ballot, Report
from flash_pl.state import Stateful


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
