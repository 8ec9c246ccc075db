"""Dense: no pruning, the accuracy to reach."""

import torch
from torch import Tensor

from flash_pl.schedulers.base import SparseScheduler
from flash_pl.server import ServerState


class Dense(SparseScheduler):
    """Every weight is active in every client; plain federated training, whatever the target density."""

    def initial_mask(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> Tensor:
        return torch.ones(server.layout.maskable, dtype=torch.bool)
