"""Schedulers under trial in the search for a better method (``trials.py``); what was kept is in the package."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.client import ClientState
from flash_pl.report import Ballot
from flash_pl.schedulers import FIARSE, PDST
from flash_pl.schedulers.saliency import SaliencyStage
from flash_pl.server import ServerState
from flash_pl.sparsity import (
    AsDrawn,
    BySize,
    ExactDraw,
    FirstMask,
    KeepLayers,
    Layout,
    Move,
    VariancePreserving,
    random_k,
    top_k_by_layer,
)
from flash_pl.sparsity.draw import layer_counts


@dataclass(frozen=True)
class BalancedDraw:
    """A random mask in which all outputs of a layer have as many inputs, and all inputs about as many outputs."""

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        mask = torch.zeros(layout.maskable, dtype=torch.bool)
        for slot, count in zip(layout.layers, layer_counts(layout, densities).tolist(), strict=True):
            outputs, inputs = slot.shape[0], slot.shape[1:].numel()
            slot.view(mask).copy_(balanced(outputs, inputs, count, generator).view(slot.shape))
        return mask


def balanced(rows: int, columns: int, count: int, generator: torch.Generator) -> Tensor:
    """A table with ``count`` ones, dealt to the rows in turn out of shuffled columns, bool ``[rows, columns]``."""
    lengths = torch.full((rows,), count // rows)
    lengths[random_k(torch.ones(rows, dtype=torch.bool), count % rows, generator)] += 1
    table = torch.zeros(rows, columns, dtype=torch.bool)
    deck = torch.randperm(columns, generator=generator)
    for row, length in enumerate(lengths.tolist()):
        taken, deck = deck[:length], deck[length:]
        if (missing := length - len(taken)) > 0:  # the next deck, without what the row already has
            used = torch.zeros(columns, dtype=torch.bool)
            used[taken] = True
            fresh = torch.randperm(columns, generator=generator)
            fresh = torch.cat([fresh[~used[fresh]], fresh[used[fresh]]])
            taken, deck = torch.cat([taken, fresh[:missing]]), fresh[missing:]
        table[row, taken] = True
    return table


def rates_of(client: ClientState, power: float) -> Tensor | None:
    """d_l^-power, 1 for an empty layer."""
    densities = client.densities
    return torch.where(densities > 0, densities.clamp(min=1e-9) ** -power, 1.0) if power else None


class Formula(PDST):
    """A fixed random mask of densities by the layers' sizes, layer l trained at lr d_l^-rates."""

    def __init__(self, rates: float = 0.25, sizes: float = 1.0, even: bool = False, scaled: bool = True) -> None:
        initialise = VariancePreserving() if scaled else AsDrawn()
        super().__init__(FirstMask(BySize(sizes), draw=BalancedDraw() if even else ExactDraw(), initialise=initialise))
        self.rates = rates

    def layer_rates(self, client: ClientState) -> Tensor | None:
        return rates_of(client, self.rates)


class Salient(Formula):
    """``Formula`` with each layer's places by the mean |g w| of some clients, their norm that of the dense layer."""

    def __init__(self, fraction: float = 0.1, rates: float = 0.25, sizes: float = 1.0) -> None:
        super().__init__(rates, sizes)
        self.first_mask = FirstMask(BySize(sizes), initialise=NormPreserving())
        self.first_stage = SaliencyStage(init_fraction=fraction)

    def initial_mask(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> Tensor:
        assert found is not None
        densities = self.first_mask.distribution(server.layout, server.density)
        return top_k_by_layer(server.layout, found.float(), layer_counts(server.layout, densities))


@dataclass(frozen=True)
class NormPreserving:
    """The kept weights of a layer get the norm of all of them, times ``scale``."""

    scale: float = 1.0

    def __call__(self, layout: Layout, weights: Tensor, mask: Tensor) -> None:
        for slot in layout.layers:
            whole, kept = slot.view(weights).double(), slot.view(weights).double() * slot.view(mask)
            if kept.any():
                slot.view(weights).mul_(self.scale * float(whole.norm() / kept.norm()))


class Largest(Formula):
    """``Formula`` with each layer's largest initial weights; random places with ``random``, signs alone with ``sign``.

    ``scale`` is their norm over that of the dense layer, 0 for as drawn.
    """

    def __init__(
        self,
        rates: float = 0.25,
        sizes: float = 1.0,
        scale: float = 0.0,
        random: bool = False,
        sign: bool = False,
    ) -> None:
        super().__init__(rates, sizes)
        self.scale, self.random, self.sign = scale, random, sign

    def start(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> None:
        layout, head = server.layout, server.weights[: server.layout.maskable]
        server.mask = self.first_mask(layout, server.weights, server.density, None, generator)
        if not self.random:
            server.mask = top_k_by_layer(layout, head.abs(), layout.counts(server.mask))
        whole = [part.double().norm() for part in layout.split(server.weights)]
        if self.sign:
            head.sign_()
        server.prune_()
        for part, norm in zip(layout.split(server.weights), whole, strict=True):
            if self.scale and part.any():
                part.mul_(self.scale * float(norm / part.double().norm()))


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
