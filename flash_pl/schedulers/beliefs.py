"""What a server believes of every weight."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from flash_pl.errors import ConfigError
from flash_pl.state import Stateful


class Beliefs(Stateful):
    """A Beta(a, b) for every weight, at first Beta(1, 1), float64 ``[2, weights]`` on the CPU.

    Args:
        rho: the weight of an outcome, a += rho o, b += rho (1 - o) (FedRTS).
    """

    def __init__(self, rho: float) -> None:
        if rho <= 0:
            raise ConfigError("rho", rho, "a positive number")
        self.rho = rho
        self.counts = torch.empty(0)

    def start(self, weights: int) -> None:
        self.counts = torch.ones(2, weights, dtype=torch.float64)

    def learn(self, outcome: Tensor, seen: Tensor) -> None:
        """Add the outcomes in [0, 1] (float64 ``[weights]``) of those that are ``seen`` (bool)."""
        self.counts += self.rho * seen * torch.stack([outcome, 1 - outcome])

    def draw(self, generator: torch.Generator) -> Tensor:
        """One draw from each, float64 ``[weights]``; torch's Beta takes no generator, so numpy's is seeded by it."""
        draws = np.random.default_rng(generator.initial_seed()).beta(*self.counts.numpy())
        return torch.from_numpy(draws)

    def state_dict(self) -> dict[str, Any]:
        return {"beliefs": self.counts.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts = state["beliefs"].clone()
