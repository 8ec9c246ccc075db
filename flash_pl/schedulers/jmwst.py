"""JMWST: clients move the mask, the server votes on it."""

from collections.abc import Sequence

from typing_extensions import Unpack

from flash_pl.report import Ballot
from flash_pl.schedulers.dst import DynamicSparseTraining, MoveKeywords
from flash_pl.schedulers.sensitivity import Sensitivity
from flash_pl.server import MagnitudeVote, ServerState, Vote


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
        self, voter: Vote | None = None, sensitivity: Sensitivity | None = None, **keywords: Unpack[MoveKeywords]
    ) -> None:
        super().__init__(**keywords)
        self.voter = voter or MagnitudeVote()
        self.first_stage = sensitivity or Sensitivity()

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        if self.interval.in_round(round):
            super().on_aggregate(server, ballots, round)
