"""Masks that the server moves."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from candidates.fixed import Formula, Largest, rates_of
from flash_pl.client import ClientContext, ClientState
from flash_pl.report import Ballot
from flash_pl.schedulers import FIARSE, STEAD
from flash_pl.server import ServerState
from flash_pl.sparsity import BySize, Gradient, KeepLayers, Move, Random, top_k_by_layer
from flash_pl.sparsity.draw import layer_counts


class ServerMoves(Formula):
    """``Formula`` whose server drops the smallest weights every ``every`` rounds and grows others at random."""

    def __init__(
        self, rate: float = 0.2, every: int = 5, horizon: int = 60, rates: float = 0.25, even: bool = False
    ) -> None:
        super().__init__(rates, even=even)
        self.rate, self.every, self.horizon = rate, every, horizon

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        done = round + 1
        if done % self.every == 0 and done < self.horizon:
            rate = self.rate * (1 + math.cos(math.pi * done / self.horizon)) / 2
            draws = server.generator("move", round)
            moved = Move(layers=KeepLayers())(server.layout, server.weights, server.mask, rate, draws)
            server.mask = moved.mask
            server.weights[: server.layout.maskable].mul_(moved.survivors)
        server.prune_()


class Grows(Largest):
    """``Largest`` whose server drops the smallest weights every ``every`` rounds and grows others at random, or by the
    mean gradient of the clients' last batches with ``gradient``."""

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
            self.seen = client.gradients().clone()

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        return {"gradient": self.seen} if self.gradient and self.due(context.round) else {}

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        if self.due(round):
            rate = self.rate * (1 + math.cos(math.pi * (round + 1) / self.horizon)) / 2
            mean = sum(ballot.extra["gradient"] for ballot in ballots) if self.gradient else None
            move = Move(growth=Gradient() if self.gradient else Random(), layers=KeepLayers())
            server.prune_()
            moved = move(server.layout, server.weights, server.mask, rate, server.generator("move", round), mean)
            server.mask = moved.mask
            server.weights[: server.layout.maskable].mul_(moved.survivors)
        server.prune_()


class Latent(FIARSE):
    """FIARSE with each layer's largest weights, densities by the layers' sizes, layer l trained at lr d_l^-rates."""

    def __init__(self, rates: float = 0.25, sizes: float = 1.0) -> None:
        super().__init__()
        self.rates, self.distribution = rates, BySize(sizes)

    def largest(self, server: ServerState, ratio: float) -> Tensor:
        layout = server.layout
        counts = layer_counts(layout, self.distribution(layout, ratio * server.density))
        return top_k_by_layer(layout, server.weights[: layout.maskable].abs(), counts)

    def layer_rates(self, client: ClientState) -> Tensor | None:
        return rates_of(client, self.rates)


class Smallest(STEAD):
    """STEAD that drops the smallest weights."""

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        self.entered.zero_()
        super().on_aggregate(server, ballots, round)


class Alive(STEAD):
    """STEAD that drops weights first that no client has changed since the last move: nothing depends on them.

    Args:
        all_dead: drop all of these, not only as many as a move drops.
        near: grow between units that are alive: a row and a column (of input channels) with weights that change.
        smooth: no threshold, the smallest |w| times its change is dropped.
    """

    def __init__(self, all_dead: bool = False, near: bool = False, smooth: bool = False, **rest: Any) -> None:
        super().__init__(**rest)
        self.all_dead, self.near, self.smooth = all_dead, near, smooth

    def start(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> None:
        super().start(server, found, generator)
        self.before = server.weights[: server.layout.maskable].clone()

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        server.prune_()
        rate, layout = self.prune_rate * self.decay(round + 1), server.layout
        if (round + 1) % self.every == 0 and rate > 0:
            head = server.weights[: layout.maskable]
            change = (head - self.before).abs() * server.mask
            alive = (change > 1e-4 * head.abs()) & server.mask
            scores = head.abs() * change if self.smooth else torch.where(alive, head, 1e-12 * head).abs()
            active, generator = layout.counts(server.mask), server.generator("move", round)
            dropped = (rate * active).ceil().long()
            if self.all_dead:
                dropped = torch.maximum(dropped, active - layout.counts(alive))
            dropped = torch.minimum(dropped, layout.sizes - active)
            kept = top_k_by_layer(layout, scores, active - dropped, within=server.mask)
            draws = torch.rand(layout.maskable, generator=generator)
            if self.near:
                draws += torch.cat([pairs(slot.view(alive)).flatten() for slot in layout.layers])
            server.mask = kept | top_k_by_layer(layout, draws, dropped, within=~kept)
            head.mul_(kept)
            self.before = head.clone()


def pairs(alive: Tensor) -> Tensor:
    """Places between an output and an input channel that have changing weights, of the layer's shape."""
    kernel = tuple(range(2, alive.dim()))
    table = alive.any(dim=kernel) if kernel else alive
    both = table.any(dim=1, keepdim=True) & table.any(dim=0, keepdim=True)
    return both.reshape(*both.shape, *[1] * len(kernel)).expand(alive.shape).float()
