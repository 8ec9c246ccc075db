"""JMWST: clients move the mask, the server votes on it."""

from collections.abc import Sequence

from flash_pl.errors import ConfigError
from flash_pl.report import Ballot
from flash_pl.schedulers.dst import DynamicSparseTraining
from flash_pl.schedulers.sensitivity import Sensitivity
from flash_pl.server import MagnitudeVote, ServerState, Vote
from flash_pl.sparsity import FirstMask, Move


class JMWST(DynamicSparseTraining):
    """Joint mask and weight sparse training (FLASH stage 1, then stage 2 with voting).

    In every ``vote_interval``-th round the clients move the server's mask while they train and the server votes; in the
    rounds between the mask is frozen.

    Args:
        vote_interval: r_int, in rounds.
        voter: the vote, by default magnitude with averaged layer budgets.
        sensitivity: the settings of stage 1.
        prune_rate, move, first_mask: as in :class:`DynamicSparseTraining`.
    """

    def __init__(
        self,
        vote_interval: int = 1,
        voter: Vote | None = None,
        sensitivity: Sensitivity | None = None,
        prune_rate: float = 0.25,
        move: Move | None = None,
        first_mask: FirstMask | None = None,
    ) -> None:
        super().__init__(prune_rate, move, first_mask)
        if vote_interval < 1:
            raise ConfigError("vote_interval", vote_interval, "an integer of at least 1")
        self.vote_interval = vote_interval
        self.voter = voter or MagnitudeVote()
        self.sensitivity = sensitivity or Sensitivity()

    def moves_in(self, round: int) -> bool:
        return round % self.vote_interval == 0

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        if self.moves_in(round):
            super().on_aggregate(server, ballots, round)
