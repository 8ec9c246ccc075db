"""Masks that do not move, of densities by the layers' sizes."""

import torch
from torch import Tensor

from candidates.draws import BalancedDraw, NormPreserving
from flash_pl.client import ClientState
from flash_pl.schedulers import PDST
from flash_pl.schedulers.ssfl import SaliencyStage
from flash_pl.server import ServerState
from flash_pl.sparsity import AsDrawn, BySize, ExactDraw, FirstMask, VariancePreserving, top_k_by_layer
from flash_pl.sparsity.first_mask import layer_counts


def rates_of(client: ClientState, power: float) -> Tensor | None:
    """d_l^-power, 1 for an empty layer."""
    densities = client.densities
    return torch.where(densities > 0, densities.clamp(min=1e-9) ** -power, 1.0) if power else None


class Formula(PDST):
    """A fixed random mask of densities by the layers' sizes, layer l trained at lr d_l^-rates."""

    def __init__(self, rates: float = 0.25, sizes: float = 1.0, even: bool = False, scaled: bool = True) -> None:
        initialize = VariancePreserving() if scaled else AsDrawn()
        super().__init__(FirstMask(BySize(sizes), draw=BalancedDraw() if even else ExactDraw(), initialize=initialize))
        self.rates = rates

    def layer_rates(self, client: ClientState) -> Tensor | None:
        return rates_of(client, self.rates)


class Salient(Formula):
    """``Formula`` with each layer's places by the mean |g w| of some clients, their norm that of the dense layer."""

    def __init__(self, fraction: float = 0.1, rates: float = 0.25, sizes: float = 1.0) -> None:
        super().__init__(rates, sizes)
        self.first_mask = FirstMask(BySize(sizes), initialize=NormPreserving())
        self.first_stage = SaliencyStage(init_fraction=fraction)

    def initial_mask(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> Tensor:
        assert found is not None
        densities = self.first_mask.distribution(server.layout, server.density)
        return top_k_by_layer(server.layout, found.float(), layer_counts(server.layout, densities))


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
