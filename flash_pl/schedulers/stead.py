"""STEAD: one mask with as many weights in every layer, which only the server moves."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flash_pl.checks import check_integers
from flash_pl.client import ClientState
from flash_pl.errors import ConfigError
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.schedulers.timing import Cosine, RateDecay
from flash_pl.server import ServerState
from flash_pl.server.updates import Ballot
from flash_pl.sparsity import BySize, FirstMask, KeepLayers, Move


class STEAD(SparseScheduler):
    """Sparse training with equal layers, averaged rounds and density-scaled rates.

    Source: this project, docs/beyond.md. The first mask needs no search: of layer l at random k_l = min(n_l, c) weights
    with the c that meets the density, scaled by d_l^-1/2 with d_l = k_l / n_l. Layer l learns at

        lr_l = lr d_l^-power.

    After every ``every``-th round the server drops the fraction ``prune_rate`` times ``decay`` of every layer's
    weights, those that have changed least since they entered the mask, and grows as many at random from 0. So weights
    that no loss depends on, which keep what they had, are the first to go, among equals from the layer's end. A place
    may grow again in the move that dropped it: it starts from 0 like any other, but its momentum at the server and its
    part of a mean over rounds stay. Clients only follow, so their masks never disagree: values go both ways, the mask
    goes down. The server should also go on with momentum and deploy a mean over rounds, as in the shipped config
    (``server_optimizer``, ``average``).

    Args:
        power: of a layer's density; 0 for one rate in all layers.
        prune_rate: of the first moves; 0 for a fixed mask.
        every: rounds between two moves.
        decay: how the rate falls, by default as a cosine over 200 rounds.
        move: how the mask moves, given the weights' changes in place of the weights; gradients are not there at the
            server.
        first_mask: as in ``SparseScheduler``, by default as above.

    Raises:
        ConfigError: ``power`` or ``prune_rate`` is not in [0, 1], ``every`` is below 1, the decay has no
            ``rounds``, or the move needs gradients.
    """

    entered = torch.empty(0)  # what each weight was when it entered the mask, [layout.maskable] once there is one

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
        for name, value in (("power", power), ("prune_rate", prune_rate)):
            if not 0 <= value <= 1:
                raise ConfigError(name, value, "a number in [0, 1]")
        check_integers(every=every)
        self.power, self.prune_rate, self.every = power, prune_rate, every
        self.decay, self.move = (decay or Cosine(rounds=200)).at_round_ends(), move or Move(redistribution=KeepLayers())
        if self.move.needs_gradient:
            raise ConfigError("move", type(self.move).__name__, "one that needs no gradients")

    def start(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> None:
        super().start(server, found, generator)
        self.entered = server.weights[: server.layout.maskable].cpu().clone()

    def layer_rates(self, client: ClientState) -> Tensor:
        densities = client.densities
        return torch.where(densities > 0, densities**-self.power, 1.0)  # an empty layer has nothing to train

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        server.prune_()
        rate = self.prune_rate * self.decay(round + 1)
        if (round + 1) % self.every == 0 and rate > 0:
            layout, weights = server.layout, server.weights[: server.layout.maskable]
            changes = weights - self.entered.to(weights.device)
            moved = self.move(layout, changes, server.mask, rate, server.generator("move", round))
            server.mask = moved.mask
            weights.mul_(moved.survivors)
            self.entered.mul_(moved.survivors.cpu())  # what grows enters at 0

    def state_dict(self) -> dict[str, Any]:
        return {"entered": self.entered.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.entered = state["entered"].clone()
