"""What a run has cost so far, round by round."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from flash_pl.costs.flops import Flops
from flash_pl.costs.traffic import Traffic
from flash_pl.report import Ballot
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

    def stage_1(self, up: int, down: int, sample_passes: int, densities: Tensor) -> None:
        """Stage 1: ``sample_passes`` are samples times epochs, over all its clients."""
        self._add({"bytes_up": up, "bytes_down": down} | self._flops([(sample_passes, densities)]))

    def round(self, ballots: Sequence[Ballot], epochs: int, densities: Tensor) -> dict[str, float]:
        """The line of a round: bytes of all its clients in every convention, FLOPs of their training (also against
        dense training of the same samples) and of an inference with the server's mask, and the totals so far.

        Args:
            epochs: that each client has trained.
            densities: of the server's mask, float64 ``[layers]``.
        """
        sent: dict[str, float] = {}
        for ballot in ballots:
            for name, value in ballot.costs.items():
                sent[name] = sent.get(name, 0) + value
        spent = self._flops([(epochs * ballot.samples, ballot.densities) for ballot in ballots])
        self._add(sent | spent)
        row = sent | spent
        if self.flops is not None:
            flops = self.flops
            dense = sum(epochs * ballot.samples for ballot in ballots) * flops.training(flops.dense)
            row["flops_ratio"] = spent["flops"] / dense if dense else 0.0
            row["flops_inference"] = flops.forward(densities)
            row["flops_inference_ratio"] = row["flops_inference"] / flops.forward(flops.dense)
        return row | {f"{name}_total": value for name, value in self.totals.items() if name in row}

    def _flops(self, trained: Sequence[tuple[int, Tensor]]) -> dict[str, float]:
        if self.flops is None:
            return {}
        return {"flops": sum(samples * self.flops.training(densities) for samples, densities in trained)}

    def _add(self, spent: Mapping[str, float]) -> None:
        for name in self.totals:
            self.totals[name] += spent.get(name, 0)

    def state_dict(self) -> dict[str, Any]:
        return {"totals": dict(self.totals)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.totals = dict(state["totals"])


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
