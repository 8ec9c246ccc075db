"""Masks that only the server moves."""

import math
from collections.abc import Sequence

from torch import Tensor

from candidates.fixed import Formula, Largest, rates_of
from flash_pl.client import ClientContext, ClientState
from flash_pl.schedulers import FIARSE
from flash_pl.server import ClientUpdate, ServerState
from flash_pl.sparsity import BySize, Gradient, KeepLayers, Move, Random, top_k_by_layer
from flash_pl.sparsity.first_mask import layer_counts


class ServerMoves(Formula):
    """``Formula``, but every ``every`` rounds the server drops the smallest weights and grows others at random."""

    def __init__(
        self, rate: float = 0.2, every: int = 5, horizon: int = 60, rates: float = 0.25, even: bool = False
    ) -> None:
        super().__init__(rates, even=even)
        self.rate, self.every, self.horizon = rate, every, horizon

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        done = round + 1
        if done % self.every == 0 and done < self.horizon:
            rate = self.rate * (1 + math.cos(math.pi * done / self.horizon)) / 2
            draws = server.generator("move", round)
            moved = Move(redistribution=KeepLayers())(server.layout, server.weights, server.mask, rate, draws)
            server.mask = moved.mask
            server.weights[: server.layout.maskable].mul_(moved.survivors)
        server.prune_()


class Grows(Largest):
    """``Largest``, but every ``every`` rounds the server drops the smallest weights and grows others.

    Growth is at random or, with ``gradient``, by the mean gradient of the clients' last batches.
    """

    def __init__(
        self,
        rate: float = 0.3,
        every: int = 5,
        horizon: int = 60,
        gradient: bool = False,
        sizes: float = 1.0,
        rates: float = 0.25,
    ) -> None:
        super().__init__(rates, sizes)
        self.rate, self.every, self.horizon, self.gradient = rate, every, horizon, gradient

    def due(self, round: int) -> bool:
        return (round + 1) % self.every == 0 and round + 1 < self.horizon

    def wants_dense_gradients(self, client: ClientState, step: int) -> bool:
        return self.gradient and self.due(client.context.round) and step + 1 == client.context.steps

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        if self.wants_dense_gradients(client, step):
            self.gradients = client.gradients().clone()

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        return {"gradient": self.gradients} if self.gradient and self.due(context.round) else {}

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        if self.due(round):
            rate = self.rate * (1 + math.cos(math.pi * (round + 1) / self.horizon)) / 2
            mean = sum(update.extra["gradient"] for update in updates) if self.gradient else None
            move = Move(growth=Gradient() if self.gradient else Random(), redistribution=KeepLayers())
            server.prune_()
            moved = move(server.layout, server.weights, server.mask, rate, server.generator("move", round), mean)
            server.mask = moved.mask
            server.weights[: server.layout.maskable].mul_(moved.survivors)
        server.prune_()


class Latent(FIARSE):
    """FIARSE, but with the largest weights of each layer, densities by ``BySize(sizes)`` and rates lr d_l^-rates."""

    def __init__(self, rates: float = 0.25, sizes: float = 1.0) -> None:
        super().__init__()
        self.rates, self.distribution = rates, BySize(sizes)

    def largest(self, server: ServerState, ratio: float) -> Tensor:
        layout = server.layout
        counts = layer_counts(layout, self.distribution(layout, ratio * server.density))
        return top_k_by_layer(layout, server.weights[: layout.maskable].abs(), counts)

    def layer_rates(self, client: ClientState) -> Tensor | None:
        return rates_of(client, self.rates)
