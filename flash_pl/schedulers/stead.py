"""STEAD: a fixed mask of the largest initial weights, as many in every layer, at rates by the layers' densities."""

import torch
from torch import Tensor

from flash_pl.client import ClientState
from flash_pl.errors import ConfigError
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.sparsity import AsDrawn, BySize, FirstMask, LargestDraw


class STEAD(SparseScheduler):
    """Sparse training with equal layers, averaged rounds and density-scaled rates.

    Source: this project, docs/beyond.md. A mask that needs no search and never moves: of every layer's initial weights
    the k_l = min(n_l, c) of largest magnitude, left as drawn, with the c that meets the density; layer l learns at

        lr_l = lr d_l^-power,  d_l = k_l / n_l.

    The other half is the server's, which goes on with momentum and deploys a mean over rounds; the shipped config
    brings both (``server_optimizer``, ``average``). Values go both ways, the mask once.

    Args:
        power: of a layer's density; 0 for one rate in all layers.
        first_mask: as in ``SparseScheduler``, by default as above.

    Raises:
        ConfigError: ``power`` is not in [0, 1].
    """

    def __init__(self, power: float = 0.25, first_mask: FirstMask | None = None) -> None:
        super().__init__(first_mask or FirstMask(BySize(), draw=LargestDraw(), initialise=AsDrawn()))
        if not 0 <= power <= 1:
            raise ConfigError("power", power, "a number in [0, 1]")
        self.power = power

    def layer_rates(self, client: ClientState) -> Tensor:
        densities = client.densities
        return torch.where(densities > 0, densities**-self.power, 1.0)  # an empty layer has nothing to train
