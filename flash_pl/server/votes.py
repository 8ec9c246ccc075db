"""How the server picks its next mask from its aggregated weights and the clients' ballots."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.errors import ConfigError
from flash_pl.server.state import ServerState
from flash_pl.server.updates import Ballot
from flash_pl.sparsity import Rescale, ScaleDown, Structure, Unstructured, WaterFill, allot, total_count


class LayerBudget(Protocol):
    """(server with aggregated weights, ballots) -> layer densities before rescaling, float64 ``[layers]``."""

    def __call__(self, server: ServerState, ballots: Sequence[Ballot]) -> Tensor: ...


@dataclass(frozen=True)
class MeanBudget:
    """dbar_l: the mean of the clients' layer densities ("avg" in FLASH stage 2, "Voting")."""

    def __call__(self, server: ServerState, ballots: Sequence[Ballot]) -> Tensor:
        return torch.stack([ballot.densities for ballot in ballots]).mean(dim=0)


@dataclass(frozen=True)
class AggregateBudget:
    """The layer densities of the aggregated weights, that is of the union of the clients' models ("aggregate")."""

    def __call__(self, server: ServerState, ballots: Sequence[Ballot]) -> Tensor:
        return server.layout.densities(server.weights[: server.layout.maskable] != 0)


class Vote(Stateful, ABC):
    """A rule (server with aggregated weights, ballots, target density) -> new mask, bool ``[maskable]``."""

    @abstractmethod
    def __call__(self, server: ServerState, ballots: Sequence[Ballot], density: float) -> Tensor:
        """The next server mask; must not change its arguments."""


class Keep(Vote):
    """The mask stays."""

    def __call__(self, server: ServerState, ballots: Sequence[Ballot], density: float) -> Tensor:
        return server.mask


class RankedVote(Vote):
    """In every layer the k_l weights of highest rank. A subclass says what ranks them; ties go by position.

    Args:
        layer_budget: layer densities, by default the mean of the clients'.
        rescale: how they are brought to the target density, by default exactly.
        structure: which patterns the mask may have, by default any.
    """

    def __init__(
        self,
        layer_budget: LayerBudget | None = None,
        rescale: Rescale | None = None,
        structure: Structure | None = None,
    ) -> None:
        self.layer_budget, self.rescale = layer_budget or MeanBudget(), rescale or WaterFill()
        self.structure = structure or Unstructured()

    @abstractmethod
    def rank(self, server: ServerState, ballots: Sequence[Ballot]) -> tuple[Tensor, Tensor | None]:
        """A score for every weight, ``[maskable]``, and one that decides among equal scores, or None."""

    def __call__(self, server: ServerState, ballots: Sequence[Ballot], density: float) -> Tensor:
        sizes = server.layout.sizes
        ideal = self.rescale(self.layer_budget(server, ballots), sizes, density) * sizes
        scores, among_equals = self.rank(server, ballots)
        counts = self.counts(ideal, sizes, density)
        return self.structure(server.layout, scores, counts, among_equals)

    def counts(self, ideal: Tensor, sizes: Tensor, density: float) -> Tensor:
        """Whole numbers of weights per layer from the ``ideal`` ones: exactly round(d n) in all."""
        return allot(ideal, sizes, total_count(sizes, density))


class MagnitudeVote(RankedVote):
    """The largest |aggregated weight| (FLASH stage 2, "Voting"). Votes break ties: what has just grown, at 0, goes
    before what nobody holds."""

    def rank(self, server: ServerState, ballots: Sequence[Ballot]) -> tuple[Tensor, Tensor | None]:
        return magnitude(server), vote_share(ballots)


class MajorityVote(RankedVote):
    """The most votes: the number of clients whose mask holds the weight, weighted by n_i; magnitude breaks ties."""

    def rank(self, server: ServerState, ballots: Sequence[Ballot]) -> tuple[Tensor, Tensor | None]:
        return vote_share(ballots), magnitude(server)


class ConsensusVote(RankedVote):
    """Magnitude and agreement together: |w| v^a, with v in [0, 1] the weighted share of clients that hold the weight.

    Args:
        agreement: the exponent a. 0 is magnitude alone; the larger it is, the closer to a majority vote. With masked
            averages, a = 1 ranks as plain averages would.
    """

    def __init__(
        self,
        agreement: float = 1.0,
        layer_budget: LayerBudget | None = None,
        rescale: Rescale | None = None,
        structure: Structure | None = None,
    ) -> None:
        super().__init__(layer_budget, rescale, structure)
        if not 0 <= agreement < float("inf"):
            raise ConfigError("agreement", agreement, "a finite number of at least 0")
        self.agreement = agreement

    def rank(self, server: ServerState, ballots: Sequence[Ballot]) -> tuple[Tensor, Tensor | None]:
        share = vote_share(ballots)
        return magnitude(server) * share**self.agreement, share


class TruncatingVote(MagnitudeVote):
    """The authors' vote by magnitude: densities are only ever scaled down and every layer's count is truncated."""

    def __init__(self, layer_budget: LayerBudget | None = None) -> None:
        super().__init__(layer_budget, ScaleDown())

    def counts(self, ideal: Tensor, sizes: Tensor, density: float) -> Tensor:
        return ideal.floor().long()


def magnitude(server: ServerState) -> Tensor:
    """|aggregated weight|, ``[maskable]``."""
    return server.weights[: server.layout.maskable].abs()


def vote_share(ballots: Sequence[Ballot]) -> Tensor:
    """sum_i n_i M_i / sum_i n_i per weight, ``[maskable]``: equal numbers of samples give equal floats."""
    votes = torch.zeros_like(ballots[0].mask, dtype=torch.float32)
    for ballot in ballots:
        votes.add_(ballot.mask, alpha=ballot.samples)  # whole numbers, exact up to 2^24 samples
    return votes / sum(ballot.samples for ballot in ballots)
