"""The server's model: weights, mask, and the union they were before the last pruning."""

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flash_pl.errors import ConfigError
from flash_pl.seeding import generator
from flash_pl.sparsity import Layout


@dataclass
class ServerState:
    """All that the server carries from round to round.

    Attributes:
        layout: the plan of the arena.
        weights: ``[layout.size]``, the maskable ones first: what the next round starts from.
        mask: bool ``[layout.maskable]``, what a device of the server's budget gets of it. Replace it, never change it
            in place: clients and tiers may hold the same tensor.
        union: the last aggregate before any pruning, ``[layout.size]``.
        density: the target d.
        seed: of the run.
        round_average: over rounds, ``[layout.size]``, if there is one: what is deployed in place of ``weights``.
    """

    layout: Layout
    weights: Tensor
    mask: Tensor
    union: Tensor
    density: float
    seed: int = 0
    round_average: Tensor | None = None

    @classmethod
    def start(cls, layout: Layout, weights: Tensor, density: float, seed: int = 0) -> "ServerState":
        """A server before its first round: a copy of the arena ``weights``, every weight active."""
        mask = torch.ones(layout.maskable, dtype=torch.bool, device=weights.device)
        return cls(layout, weights.clone(), mask, weights.clone(), density, seed)

    def generator(self, purpose: str, round: int) -> torch.Generator:
        """The generator of (seed, purpose, round) for what the server draws, on the CPU: alike in all processes, and
        nothing that a checkpoint must hold."""
        return generator(self.seed, f"server/{purpose}", round)

    @property
    def deployed(self) -> Tensor:
        """The average over rounds if there is one, else the weights, ``[layout.size]``."""
        return self.weights if self.round_average is None else self.round_average

    def masked(self, mask: Tensor | None = None) -> Tensor:
        """The model that is deployed: a copy of the average over rounds if there is one, else of the weights, 0 outside
        ``mask``, by default the server's."""
        weights = self.deployed.clone()
        weights[: self.layout.maskable].mul_(self.mask if mask is None else mask)
        return weights

    def prune_(self) -> None:
        """Set the weights outside the mask to 0."""
        self.weights[: self.layout.maskable].mul_(self.mask)

    def fingerprint(self) -> int:
        """A checksum of the weights."""
        return zlib.crc32(self.weights.cpu().view(torch.uint8).numpy().data)  # numpy has no bfloat16

    def state_dict(self) -> dict[str, Any]:
        """Copies on the CPU, and the layout that gives the numbers their meaning."""
        tensors = {"weights": self.weights, "mask": self.mask, "union": self.union}
        tensors |= {} if self.round_average is None else {"round_average": self.round_average}
        return {"layout": self.layout.specification} | {name: tensor.cpu().clone() for name, tensor in tensors.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ConfigError: it belongs to another layout: another model, other excluded layers or another memory format.
        """
        if state["layout"] != self.layout.specification:
            ours = f"{self.layout.elements} values in {len(self.layout.specification)} tensors"
            raise ConfigError("model", ours, "the same model, excluded layers and memory format as in the checkpoint")
        self.weights.copy_(state["weights"])
        self.mask = state["mask"].to(self.weights.device)
        self.union.copy_(state["union"])
        self.round_average = (
            state["round_average"].to(self.weights.device, copy=True) if "round_average" in state else None
        )
