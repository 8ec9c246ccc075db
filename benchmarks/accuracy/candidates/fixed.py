"""Fixed masks whose layer densities depend on the sizes of the layers."""

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
    """Factors d_l^-power of the layers' learning rates, 1 for an empty layer; None for power 0."""
    densities = client.densities
    return torch.where(densities > 0, densities.clamp(min=1e-9) ** -power, 1.0) if power else None


class Formula(PDST):
    """A fixed random mask with layer densities by ``BySize(sizes)``; layer l learns at lr d_l^-rates.

    Args:
        rates: exponent of the learning rates.
        sizes: exponent of the layers' sizes.
        even: give all outputs of a layer equally many inputs.
        scaled: scale the initial weights so that the variance of a layer's outputs stays.
    """

    def __init__(self, rates: float = 0.25, sizes: float = 1.0, even: bool = False, scaled: bool = True) -> None:
        initialize = VariancePreserving() if scaled else AsDrawn()
        super().__init__(FirstMask(BySize(sizes), draw=BalancedDraw() if even else ExactDraw(), initialize=initialize))
        self.rates = rates

    def layer_rates(self, client: ClientState) -> Tensor | None:
        return rates_of(client, self.rates)


class Salient(Formula):
    """``Formula`` with the weights of largest mean |g w| over some clients, scaled to the norm of the dense layer."""

    def __init__(self, fraction: float = 0.1, rates: float = 0.25, sizes: float = 1.0) -> None:
        super().__init__(rates, sizes)
        self.first_mask = FirstMask(BySize(sizes), initialize=NormPreserving())
        self.first_stage = SaliencyStage(init_fraction=fraction)

    def initial_mask(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> Tensor:
        assert measured is not None
        densities = self.first_mask.distribution(server.layout, server.density)
        return top_k_by_layer(server.layout, measured.float(), layer_counts(server.layout, densities))


class Largest(Formula):
    """``Formula`` with the largest initial weights of each layer.

    Args:
        rates: exponent of the learning rates.
        sizes: exponent of the layers' sizes.
        scale: norm of the kept weights relative to that of the dense layer; 0 leaves them as drawn.
        random: keep random weights instead.
        sign: replace the initial weights by their signs.
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

    def start(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> None:
        layout, head = server.layout, server.weights[: server.layout.maskable]
        server.mask = self.first_mask(layout, server.weights, server.density, None, generator)
        if not self.random:
            server.mask = top_k_by_layer(layout, head.abs(), layout.counts(server.mask))
        norms = [part.double().norm() for part in layout.split(server.weights)]
        if self.sign:
            head.sign_()
        server.prune_()
        for part, norm in zip(layout.split(server.weights), norms, strict=True):
            if self.scale and part.any():
                part.mul_(self.scale * float(norm / part.double().norm()))
