"""STEAD: one mask with equally many weights in every layer, which only the server moves."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flash_pl.checks import check_integers, check_numbers
from flash_pl.client import ClientState
from flash_pl.errors import ConfigError
from flash_pl.saved_state import Array, Keys, OneOf
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.schedulers.timing import Cosine, RateDecay
from flash_pl.server import ClientUpdate, ServerState
from flash_pl.sparsity import BySize, FirstMask, KeepLayers, Move


class STEAD(SparseScheduler):
    """Sparse training with equal layers, averaged rounds and density-scaled rates.

    Source: this project, docs/beyond.md. The first mask needs no search: layer l has k_l = min(n_l, c) weights at
    random, with the c that meets the density. Initial weights are scaled by d_l^-1/2 with d_l = k_l / n_l. Layer l
    learns at

        lr_l = lr d_l^-power.

    After every ``every``-th round the server drops the fraction ``prune_rate`` times ``decay`` of every layer's
    weights: those that have changed least since they entered the mask. It grows as many at random, from 0. Weights on
    which no loss depends never change, so they are dropped first; among equal weights those at the end of the layer go
    first. With weight decay such weights shrink and are no longer told from those in use: leave it at 0. A move may
    grow a weight that it has just dropped: the weight starts from 0 like any other, but keeps its momentum at the
    server and its part of a mean over rounds. Clients never move the mask, so their masks always agree: values go both
    ways, the mask goes down. The shipped config also gives the server momentum and deploys a mean over rounds
    (``server_optimizer``, ``round_average``).

    Args:
        power: exponent of a layer's density, in [0, 1]; 0 gives all layers one rate.
        prune_rate: fraction that the first moves drop, in [0, 1]; 0 fixes the mask.
        every: rounds between two moves.
        decay: how the fraction falls, by default as a cosine over 200 rounds.
        move: how the mask moves; it sees the weights' changes in place of the weights, and no gradients.
        first_mask: as in ``SparseScheduler``, by default as above.

    Raises:
        ConfigError: ``power`` or ``prune_rate`` is not in [0, 1], ``every`` is below 1, the decay has no ``rounds``, or
            the move needs gradients.

    >>> from flash_pl import FederatedTrainer
    >>> from flash_pl.server import FedAvgM, RoundAverage
    >>> at_the_server = {"server_optimizer": FedAvgM(0.5), "round_average": RoundAverage()}  # as the shipped config
    >>> trainer = FederatedTrainer(STEAD(), density=0.02, rounds=30, cohort=10, **at_the_server)
    """

    saved = Keys({"entry_values": OneOf((Array("float", ("maskable",)), Array("float", (0,))))})
    entry_values = torch.empty(0)  # the weights when they entered the mask, [layout.maskable] once there is a mask

    def __init__(
        self,
        power: float = 0.25,
        prune_rate: float = 0.3,
        every: int = 2,
        decay: RateDecay | None = None,
        move: Move | None = None,
        first_mask: FirstMask | None = None,
    ) -> None:
        super().__init__(first_mask or FirstMask(BySize()))
        check_numbers("[0, 1]", power=power, prune_rate=prune_rate)
        check_integers(every=every)
        self.power, self.prune_rate, self.every = power, prune_rate, every
        self.decay, self.move = decay or Cosine(rounds=200), move or Move(redistribution=KeepLayers())
        self.decay.check_moves_at_round_ends()
        if self.move.needs_gradient:
            problem = "it needs gradients of pruned weights, which the server does not have"
            raise ConfigError("move", problem, "drop by magnitude or random, grow by random")

    def start(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> None:
        super().start(server, measured, generator)
        self.entry_values = server.weights[: server.layout.maskable].cpu().clone()

    def layer_rates(self, client: ClientState) -> Tensor:
        densities = client.densities
        return torch.where(densities > 0, densities**-self.power, 1.0)  # an empty layer has nothing to train

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        server.prune_()
        rate = self.prune_rate * self.decay(round)
        if (round + 1) % self.every == 0 and rate > 0:
            layout, weights = server.layout, server.weights[: server.layout.maskable]
            changes = weights - self.entry_values.to(weights.device)
            moved = self.move(layout, changes, server.mask, rate, server.generator("move", round))
            server.mask = moved.mask
            weights.mul_(moved.survivors)
            self.entry_values.mul_(moved.survivors.cpu())  # grown weights enter at 0

    def state_dict(self) -> dict[str, Any]:
        return {"entry_values": self.entry_values.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.entry_values = state["entry_values"].clone()

    def compared_state(self) -> dict[str, Any]:
        return {"entry_values": self.entry_values}
