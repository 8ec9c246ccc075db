"""How many weights each layer of the next server mask gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flash_pl.report import Ballot
from flash_pl.server.state import ServerState


class LayerBudget(Protocol):
    """(server with aggregated weights, ballots) -> layer densities before rescaling, float64 ``[layers]``."""

    def __call__(self, server: ServerState, ballots: Sequence[Ballot]) -> Tensor: ...


@dataclass(frozen=True)
class AverageBudget:
    """dbar_l: the mean of the clients' layer densities ("avg" in FLASH stage 2, "Voting")."""

    def __call__(self, server: ServerState, ballots: Sequence[Ballot]) -> Tensor:
        return torch.stack([ballot.densities for ballot in ballots]).mean(dim=0)


@dataclass(frozen=True)
class AggregateBudget:
    """The layer densities of the aggregated weights, that is of the union of the clients' models ("aggregate")."""

    def __call__(self, server: ServerState, ballots: Sequence[Ballot]) -> Tensor:
        return server.layout.densities(server.weights[: server.layout.maskable] != 0)
