"""NST: every client finds a mask of its own, and nobody brings them together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.report import Ballot
from flash_pl.schedulers.dst import DynamicSparseTraining
from flash_pl.server import AverageBudgetVote, ServerState, Vote
from flash_pl.sparsity import FirstMask, Layout, Move


class NST(DynamicSparseTraining):
    """Naive sparse training: the baseline whose masks drift apart (FLASH, stage 2).

    A client starts from one shared random mask, moves it while it trains and takes it up again in its next round. The
    server averages over the union and keeps it; its mask only says which weights a device of density d would get.

    Args:
        voter: picks that mask, by default magnitude with averaged layer budgets.
        prune_rate, move, first_mask: as in :class:`DynamicSparseTraining`.
    """

    follows_budget = False

    def __init__(
        self,
        voter: Vote | None = None,
        prune_rate: float = 0.25,
        move: Move | None = None,
        first_mask: FirstMask | None = None,
    ) -> None:
        super().__init__(prune_rate, move, first_mask)
        self.voter = voter or AverageBudgetVote()
        self.masks: dict[int, Tensor] = {}

    def initial_mask(self, layout: Layout, density: float, found: Tensor | None, generator: torch.Generator) -> Tensor:
        self.masks = {}
        self.shared = super().initial_mask(layout, density, found, generator)
        return self.shared

    def client_mask(self, offered: Tensor, context: ClientContext) -> Tensor:
        return self.masks.get(context.client, self.shared).to(offered.device)

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        self.masks[context.client] = client.mask.cpu()
        return {}

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        server.mask = self.voter(server, ballots, server.density)

    def state_dict(self) -> dict[str, Any]:
        return {"shared": self.shared.cpu(), "masks": dict(self.masks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shared, self.masks = state["shared"], dict(state["masks"])
