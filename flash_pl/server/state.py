"""The server's model: weights, mask, and the union they were before the last pruning."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flash_pl.sparsity import Layout


@dataclass
class ServerState:
    """All that the server carries from round to round.

    ``weights`` ``[layout.size]`` is what the next round starts from, ``mask`` bool ``[layout.maskable]`` what a device
    of the server's budget gets of it, ``union`` the last aggregate before any pruning.
    """

    layout: Layout
    weights: Tensor
    mask: Tensor
    union: Tensor

    @classmethod
    def start(cls, layout: Layout, weights: Tensor) -> "ServerState":
        """A server before its first round: a copy of the arena ``weights``, every weight active."""
        mask = torch.ones(layout.maskable, dtype=torch.bool, device=weights.device)
        return cls(layout, weights.clone(), mask, weights.clone())

    def masked(self) -> Tensor:
        """The model a device gets: a copy of the weights with the pruned ones 0."""
        weights = self.weights.clone()
        weights[: self.layout.maskable].mul_(self.mask)
        return weights

    def prune_(self) -> None:
        """Set the weights outside the mask to 0."""
        self.weights[: self.layout.maskable].mul_(self.mask)

    def state_dict(self) -> dict[str, Any]:
        """Tensors on the CPU."""
        return {"weights": self.weights.cpu(), "mask": self.mask.cpu(), "union": self.union.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.weights.copy_(state["weights"])
        self.mask = state["mask"].to(self.weights.device)
        self.union.copy_(state["union"])
