"""The server picks its next mask from its aggregated weights and the clients' masks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.checks import check_numbers
from flash_pl.server.state import ServerState
from flash_pl.server.updates import ClientUpdate
from flash_pl.sparsity import Layout, Rescale, ScaleDown, Structure, Unstructured, WaterFill, allot


class Vote(Stateful, ABC):
    """A rule (server with aggregated weights, updates, target density) -> new mask, bool ``[maskable]``."""

    @abstractmethod
    def __call__(self, server: ServerState, updates: Sequence[ClientUpdate], density: float) -> Tensor:
        """The next server mask; the arguments stay as they are."""


class KeepMask(Vote):
    """The mask stays."""

    def __call__(self, server: ServerState, updates: Sequence[ClientUpdate], density: float) -> Tensor:
        return server.mask


class RankedVote(Vote):
    """Keeps the k_l weights of highest rank in every layer; a subclass ranks them. Ties go by position.

    Args:
        layer_budget: layer densities before rescaling, by default the mean of the clients'.
        rescale: brings them to the target density, by default exactly.
        structure: patterns that the mask may have, by default any.

    >>> from flash_pl.sparsity import Layout
    >>> layout = Layout(torch.nn.Linear(4, 1, bias=False))
    >>> server = ServerState.start(layout, torch.tensor([0.5, -0.9, 0.1, 0.2]), density=0.5)
    >>> masks = torch.tensor([[True, False, True, False], [True, False, False, True]])
    >>> half = torch.tensor([0.5], dtype=torch.float64)
    >>> updates = [ClientUpdate(client, 10, mask, half, half) for client, mask in enumerate(masks)]
    >>> class LastClient(RankedVote):  # ranks by the mask of the last client; magnitude decides between equals
    ...     def rank(self, server, updates):
    ...         return updates[-1].mask.float(), magnitude(server)
    >>> LastClient()(server, updates, density=0.5).tolist()
    [True, False, False, True]
    """

    def __init__(
        self,
        layer_budget: "LayerBudget | None" = None,
        rescale: Rescale | None = None,
        structure: Structure | None = None,
    ) -> None:
        self.layer_budget, self.rescale = layer_budget or MeanBudget(), rescale or WaterFill()
        self.structure = structure or Unstructured()

    @abstractmethod
    def rank(self, server: ServerState, updates: Sequence[ClientUpdate]) -> tuple[Tensor, Tensor | None]:
        """A score for every weight, ``[maskable]``, and a second one that decides between equal scores, or None."""

    def __call__(self, server: ServerState, updates: Sequence[ClientUpdate], density: float) -> Tensor:
        layout = server.layout
        ideal = self.rescale(self.layer_budget(server, updates), layout.costs, density) * layout.sizes
        scores, among_equals = self.rank(server, updates)
        if wrong := int(scores.isnan().sum()):
            raise ValueError(f"{type(self).__name__}.rank gives NaN for {wrong} of {layout.maskable} weights")
        return self.structure(layout, scores, self.counts(ideal, layout, density), among_equals)

    def counts(self, ideal: Tensor, layout: Layout, density: float) -> Tensor:
        """Integer numbers of weights per layer near the ``ideal`` ones, rounded to the budget of d."""
        return allot(ideal, layout.sizes, layout.budget(density), prices=layout.prices)


class MagnitudeVote(RankedVote):
    """Keeps the largest |aggregated weight| (FLASH stage 2, "Voting").

    Among weights of equal magnitude those in more clients' masks come first: a weight that has just grown, at 0, goes
    before a weight that is in no mask.

    >>> import torch
    >>> from flash_pl.server import ClientUpdate, ServerState
    >>> from flash_pl.sparsity import Layout
    >>> network = torch.nn.Linear(4, 1, bias=False)
    >>> server = ServerState.start(Layout(network), torch.tensor([0.5, -0.9, 0.1, 0.0]), density=0.5)
    >>> mask, density = torch.tensor([True, True, False, False]), torch.tensor([0.5], dtype=torch.float64)
    >>> MagnitudeVote()(server, [ClientUpdate(0, 10, mask, density, density)], density=0.5)
    tensor([ True,  True, False, False])
    """

    def rank(self, server: ServerState, updates: Sequence[ClientUpdate]) -> tuple[Tensor, Tensor | None]:
        return magnitude(server), vote_share(updates)


class MajorityVote(RankedVote):
    """Keeps the weights that are in the masks of most clients, weighted by n_i; magnitude decides between equals."""

    def rank(self, server: ServerState, updates: Sequence[ClientUpdate]) -> tuple[Tensor, Tensor | None]:
        return vote_share(updates), magnitude(server)


class ConsensusVote(RankedVote):
    """Keeps the largest |w| v^a, where v in [0, 1] is the weighted share of clients with the weight in their mask.

    Args:
        agreement: the exponent a. 0 is magnitude alone; a large a comes close to a majority vote. With masked averages,
            a = 1 ranks as plain averages would.
        layer_budget, rescale, structure: as in ``RankedVote``.
    """

    def __init__(
        self,
        agreement: float = 1.0,
        layer_budget: "LayerBudget | None" = None,
        rescale: Rescale | None = None,
        structure: Structure | None = None,
    ) -> None:
        super().__init__(layer_budget, rescale, structure)
        check_numbers("[0, inf)", agreement=agreement)
        self.agreement = agreement

    def rank(self, server: ServerState, updates: Sequence[ClientUpdate]) -> tuple[Tensor, Tensor | None]:
        share = vote_share(updates)
        return magnitude(server) * share**self.agreement, share


class TruncatingVote(MagnitudeVote):
    """The FLASH authors' vote: densities are only ever scaled down, and the count of every layer is truncated."""

    def __init__(self, layer_budget: "LayerBudget | None" = None) -> None:
        super().__init__(layer_budget, ScaleDown())

    def counts(self, ideal: Tensor, layout: Layout, density: float) -> Tensor:
        return ideal.floor().long()


def magnitude(server: ServerState) -> Tensor:
    """|aggregated weight|, ``[maskable]``."""
    return server.weights[: server.layout.maskable].abs()


def vote_share(updates: Sequence[ClientUpdate]) -> Tensor:
    """sum_i w_i M_i / sum_i w_i for each weight, ``[maskable]``; w_i is n_i, unless the sampler sets other weights.

    Equal numbers of samples give equal floats.
    """
    votes = torch.zeros_like(updates[0].mask, dtype=torch.float32)
    for update in updates:
        votes.add_(update.mask, alpha=update.weight)  # numbers of samples are exact up to 2^24
    return votes / sum(update.weight for update in updates)


class LayerBudget(Protocol):
    """(server with aggregated weights, updates) -> layer densities before rescaling, float64 ``[layers]``."""

    def __call__(self, server: ServerState, updates: Sequence[ClientUpdate]) -> Tensor: ...


@dataclass(frozen=True)
class MeanBudget:
    """dbar_l: the mean of the clients' layer densities ("avg" in FLASH stage 2, "Voting")."""

    def __call__(self, server: ServerState, updates: Sequence[ClientUpdate]) -> Tensor:
        return torch.stack([update.densities for update in updates]).mean(dim=0)


@dataclass(frozen=True)
class AggregateBudget:
    """The layer densities of the aggregated weights, the union of the clients' models ("aggregate" in FLASH)."""

    def __call__(self, server: ServerState, updates: Sequence[ClientUpdate]) -> Tensor:
        return server.layout.densities(server.weights[: server.layout.maskable] != 0)
