"""FedRTS: the server draws its mask from what it has come to believe of every weight."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.client import ClientContext, ClientState
from flash_pl.errors import ConfigError
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.schedulers.timing import Cosine, Interval, LastStep, RateDecay
from flash_pl.server import ServerState
from flash_pl.server.updates import Ballot
from flash_pl.sparsity import ERK, FirstMask, top_k_by_layer


class Beliefs(Stateful):
    """A Beta(a, b) for every weight, at first Beta(1, 1), float64 ``[2, weights]`` on the CPU.

    Args:
        rho: the weight of an outcome, a += rho o, b += rho (1 - o) (FedRTS).
    """

    def __init__(self, rho: float) -> None:
        if rho <= 0:
            raise ConfigError("rho", rho, "a positive number")
        self.rho = rho
        self.counts = torch.empty(0)

    def start(self, weights: int) -> None:
        self.counts = torch.ones(2, weights, dtype=torch.float64)

    def learn(self, outcome: Tensor, seen: Tensor) -> None:
        """Add the outcomes in [0, 1] (float64 ``[weights]``) of those that are ``seen`` (bool)."""
        self.counts += self.rho * seen * torch.stack([outcome, 1 - outcome])

    def draw(self, generator: torch.Generator) -> Tensor:
        """One draw from each, float64 ``[weights]``; torch's Beta takes no generator, so numpy's is seeded by it."""
        draws = np.random.default_rng(generator.initial_seed()).beta(*self.counts.numpy())
        return torch.from_numpy(draws)

    def state_dict(self) -> dict[str, Any]:
        return {"beliefs": self.counts.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts = state["beliefs"].clone()


class FedRTS(SparseScheduler):
    """Federated robust pruning by combinatorial Thompson sampling.

    Source: FedRTS, NeurIPS 2025, read in a port. Every weight has a Beta(a, b), at first Beta(1, 1); layer l keeps
    its K_l weights. With k_l the weights that a move may change, an active weight's outcome in every round is

        o = (1 - y) [in the top K_l - k_l of the average] + y sum_i p_i [in the top K_l - k_l of client i],

    in rounds of the interval an inactive one's o = (1 - y) / 2 + y sum_i p_i [in client i's top k_l of |gradient|],
    with p_i the client's share of samples; a += rho o, b += rho (1 - o). Then the server draws from all Betas and
    keeps the K_l largest draws. Clients send values, the bits of their own top weights, and in those rounds those of
    their top gradients.

    Not verified: the authors' own code was not at hand; the paper may give y the opposite role, which 1/2 does not
    show.

    Args:
        gamma: y, the say of single clients.
        rho: the weight of an outcome.
        prune_rate: k_l / K_l at first.
        decay: how it falls, by default as a cosine over 50 rounds.
        interval: rounds in which the mask moves, by default every tenth.
        first_mask: as in ``SparseScheduler``, by default with ERK densities.

    Raises:
        ConfigError: ``gamma``, ``rho`` or ``prune_rate`` is out of range, or the decay has no ``rounds``.
    """

    def __init__(
        self,
        gamma: float = 0.5,
        rho: float = 10.0,
        prune_rate: float = 0.2,
        decay: RateDecay | None = None,
        interval: Interval | None = None,
        first_mask: FirstMask | None = None,
    ) -> None:
        super().__init__(first_mask or FirstMask(distribution=ERK()))
        for name, value in (("gamma", gamma), ("prune_rate", prune_rate)):
            if not 0 <= value <= 1:
                raise ConfigError(name, value, "a number in [0, 1]")
        self.gamma, self.prune_rate, self.beliefs = gamma, prune_rate, Beliefs(rho)
        self.decay, self.interval = (decay or Cosine(rounds=50)).at_round_ends(), interval or LastStep(rounds=10)

    def start(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> None:
        super().start(server, found, generator)
        self.beliefs.start(server.layout.maskable)

    def movable(self, active: Tensor, round: int) -> Tensor:
        """k_l of the K_l ``active`` weights (int64 ``[layers]`` both)."""
        return (self.prune_rate * self.decay(round) * active).long()

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        self.gradient: Tensor | None = None

    def wants_dense_gradients(self, client: ClientState, step: int) -> bool:
        return self.interval.due(client.context, step + 1)

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        if self.wants_dense_gradients(client, step):
            self.gradient = client.gradients()

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        layout, active = client.layout, client.layout.counts(client.mask)
        moved = self.movable(active, context.round)
        sent = {"top": top_k_by_layer(layout, client.weights.abs(), active - moved, within=client.mask)}
        if self.interval.in_round(context.round):
            free = torch.minimum(moved, layout.sizes - active)
            sent["grown"] = torch.zeros_like(client.mask)
            if self.gradient is not None:  # a module may skip its last batch
                sent["grown"] = top_k_by_layer(layout, self.gradient.abs(), free, within=~client.mask)
        return sent

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        layout, mask = server.layout, server.mask.cpu()
        active = layout.counts(mask)
        kept = active - self.movable(active, round)
        top = top_k_by_layer(layout, server.weights.abs(), kept, within=server.mask).cpu().double()
        outcome = (1 - self.gamma) * top + self.gamma * say(ballots, "top")
        if not self.interval.in_round(round):
            self.beliefs.learn(outcome, mask)
        else:
            inactive = (1 - self.gamma) / 2 + self.gamma * say(ballots, "grown")
            self.beliefs.learn(torch.where(mask, outcome, inactive), torch.ones_like(mask))
            drawn = self.beliefs.draw(server.generator("beliefs", round))
            server.mask = top_k_by_layer(layout, drawn, active).to(server.mask.device)
        server.prune_()

    def state_dict(self) -> dict[str, Any]:
        return self.beliefs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.beliefs.load_state_dict(state)


def say(ballots: Sequence[Ballot], name: str) -> Tensor:
    """sum_i p_i of the truth values that clients sent as ``name``, float64 ``[maskable]`` on the CPU."""
    total = sum(ballot.samples for ballot in ballots)
    shares = (ballot.samples / total * ballot.extra[name].cpu().double() for ballot in ballots)
    return sum(shares, start=torch.zeros((), dtype=torch.float64))
