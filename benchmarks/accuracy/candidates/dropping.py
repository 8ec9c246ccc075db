"""STEAD with other rules for the weights that a move drops."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flash_pl.schedulers import STEAD
from flash_pl.server import ClientUpdate, ServerState
from flash_pl.sparsity import top_k_by_layer


class Smallest(STEAD):
    """STEAD, but a move drops the smallest weights."""

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        self.entry_values.zero_()
        super().on_aggregate(server, updates, round)


class Alive(STEAD):
    """STEAD, but a move first drops the weights that no client has changed since the last move.

    Args:
        all_dead: drop all unchanged weights, even if they are more than a move drops.
        near: grow weights first where the output and the input channel both have weights that change.
        smooth: drop the weights with the smallest product of |w| and change, without a threshold.
    """

    def __init__(self, all_dead: bool = False, near: bool = False, smooth: bool = False, **rest: Any) -> None:
        super().__init__(**rest)
        self.all_dead, self.near, self.smooth = all_dead, near, smooth

    def start(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> None:
        super().start(server, measured, generator)
        self.before = server.weights[: server.layout.maskable].clone()

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        server.prune_()
        rate, layout = self.prune_rate * self.decay(round), server.layout
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
    """1 for places whose output and input channel both have changing weights, else 0, in the layer's shape."""
    kernel = tuple(range(2, alive.dim()))
    table = alive.any(dim=kernel) if kernel else alive
    both = table.any(dim=1, keepdim=True) & table.any(dim=0, keepdim=True)
    return both.reshape(*both.shape, *[1] * len(kernel)).expand(alive.shape).float()
