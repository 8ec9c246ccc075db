"""How the server picks its next mask from its aggregated weights and the clients' ballots."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.report import Ballot
from flash_pl.server.state import ServerState
from flash_pl.sparsity import Rescale, ScaleDown, WaterFill, allot, top_k_by_layer, total_count


class Vote(ABC):
    """A rule (server with aggregated weights, ballots, target density) -> new mask, bool ``[maskable]``."""

    @abstractmethod
    def __call__(self, server: ServerState, ballots: Sequence[Ballot], density: float) -> Tensor:
        """The next server mask; must not change its arguments."""


class Keep(Vote):
    """The mask stays."""

    def __call__(self, server: ServerState, ballots: Sequence[Ballot], density: float) -> Tensor:
        return server.mask


class MagnitudeVote(Vote):
    """In every layer the k_l weights of largest |aggregated weight| ("Voting", FLASH stage 2); ties go by position.

    Subclasses say where the layer budgets come from.

    Args:
        rescale: how budgets are brought to the target density.
    """

    def __init__(self, rescale: Rescale | None = None) -> None:
        self.rescale = rescale or WaterFill()

    @abstractmethod
    def layer_densities(self, server: ServerState, ballots: Sequence[Ballot]) -> Tensor:
        """Layer densities before rescaling, float64 ``[layers]``."""

    def __call__(self, server: ServerState, ballots: Sequence[Ballot], density: float) -> Tensor:
        sizes = server.layout.sizes
        ideal = self.rescale(self.layer_densities(server, ballots), sizes, density) * sizes
        return top_k_by_layer(server.layout, server.weights.abs(), self.counts(ideal, sizes, density))

    def counts(self, ideal: Tensor, sizes: Tensor, density: float) -> Tensor:
        """Whole numbers of weights per layer from the ``ideal`` ones: exactly round(d n) in all."""
        return allot(ideal, sizes, total_count(sizes, density))


class AverageBudgetVote(MagnitudeVote):
    """Layer budgets dbar_l: the mean of the clients' layer densities ("avg")."""

    def layer_densities(self, server: ServerState, ballots: Sequence[Ballot]) -> Tensor:
        return torch.stack([ballot.densities for ballot in ballots]).mean(dim=0)


class AggregateBudgetVote(MagnitudeVote):
    """Layer budgets: the layer densities of the aggregated weights, the union of the clients' ("aggregate")."""

    def layer_densities(self, server: ServerState, ballots: Sequence[Ballot]) -> Tensor:
        return server.layout.densities(server.weights[: server.layout.maskable] != 0)


class TruncatingVote(AverageBudgetVote):
    """The authors' "avg" vote: densities are only ever scaled down and every layer's count is truncated."""

    def __init__(self) -> None:
        super().__init__(ScaleDown())

    def counts(self, ideal: Tensor, sizes: Tensor, density: float) -> Tensor:
        return ideal.floor().long()
