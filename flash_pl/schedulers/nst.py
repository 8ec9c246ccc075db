"""NST: every client finds a mask of its own, and nobody brings them together."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from flash_pl.client import ClientContext
from flash_pl.report import Ballot
from flash_pl.schedulers.dst import DynamicSparseTraining, MoveKeywords
from flash_pl.server import MagnitudeVote, ServerState, Vote


class NST(DynamicSparseTraining):
    """Naive sparse training: the baseline whose masks drift apart (FLASH, stage 2).

    A client starts from one shared random mask, or its tier's part of it, moves it while it trains and takes it up
    again in its next round; if it is in another tier then, it starts from that one's part of the shared mask. The
    server averages over the union and keeps it; its mask only says which weights a device of density d would get.

    Args:
        voter: picks that mask, by default magnitude with averaged layer budgets.
        prune_rate, move, first_mask, decay, interval: as in ``DynamicSparseTraining``.
    """

    def __init__(self, voter: Vote | None = None, **keywords: Unpack[MoveKeywords]) -> None:
        super().__init__(**keywords)
        self.voter = voter or MagnitudeVote()
        self.shared: list[Tensor] = []  # one mask a tier

    def on_round_start(self, server: ServerState, masks: Sequence[Tensor], round: int) -> None:
        if round == 0:
            self.shared = [mask.cpu() for mask in masks]

    def client_mask(self, offered: Tensor, held: Tensor | None, context: ClientContext) -> Tensor:
        shared = self.shared[context.tier]
        return (shared if held is None or self.tier_of(held) != context.tier else held).to(offered.device)

    def tier_of(self, held: Tensor) -> int:
        """The tier whose number of weights is the nearest: moves keep it, the authors' to a few weights."""
        weights = int(held.count_nonzero())
        return min(range(len(self.shared)), key=lambda tier: abs(int(self.shared[tier].count_nonzero()) - weights))

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        server.mask = self.voter(server, ballots, server.density)

    def state_dict(self) -> dict[str, Any]:
        return {"shared": list(self.shared)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shared = list(state["shared"])
