"""JMWST: clients move the mask, the server votes on it."""

from collections.abc import Sequence

from flash_pl.report import Ballot
from flash_pl.schedulers.decay import RateDecay
from flash_pl.schedulers.dst import DynamicSparseTraining
from flash_pl.schedulers.interval import Interval
from flash_pl.schedulers.sensitivity import Sensitivity
from flash_pl.server import MagnitudeVote, ServerState, Vote
from flash_pl.sparsity import FirstMask, Move


class JMWST(DynamicSparseTraining):
    """Joint mask and weight sparse training (FLASH stage 1, then stage 2 with voting).

    In rounds in which masks move the clients move the server's mask while they train and the server votes; in the
    rounds between, if there are any, the mask is frozen. FLASH's r_int is ``interval.rounds``.

    Args:
        voter: the vote, by default magnitude with averaged layer budgets.
        sensitivity: the settings of stage 1.
        prune_rate, move, first_mask, decay, interval: as in ``DynamicSparseTraining``.
    """

    def __init__(
        self,
        voter: Vote | None = None,
        sensitivity: Sensitivity | None = None,
        prune_rate: float = 0.25,
        move: Move | None = None,
        first_mask: FirstMask | None = None,
        decay: RateDecay | None = None,
        interval: Interval | None = None,
    ) -> None:
        super().__init__(prune_rate, move, first_mask, decay, interval)
        self.voter = voter or MagnitudeVote()
        self.first_stage = sensitivity or Sensitivity()

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        if self.interval.in_round(round):
            super().on_aggregate(server, ballots, round)
