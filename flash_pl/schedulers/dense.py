"""Dense: no pruning, the accuracy to reach."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.schedulers.base import SparseScheduler
from flash_pl.server import ServerState


class Dense(SparseScheduler):
    """Every weight is active in every client; plain federated training, whatever the target density and
    whatever devices can afford."""

    def initial_mask(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> Tensor:
        return torch.ones(server.layout.maskable, dtype=torch.bool)

    def tier_masks(self, server: ServerState, ratios: Sequence[float]) -> list[Tensor]:
        return [server.mask] * len(ratios)
