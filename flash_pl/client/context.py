"""What a client knows of the round it takes part in."""

from dataclasses import dataclass

import torch

from flash_pl.seeding import generator


@dataclass(frozen=True)
class ClientContext:
    """Facts of one client's local training; ``purpose`` keeps the draws of stage 1 and stage 2 apart."""

    client: int
    round: int
    epochs: int  # local epochs E
    batches: int  # per epoch
    seed: int
    purpose: str = "round"
    lr_scale: float = 1.0  # multiplies the module's own learning rates
    tier: int = 0  # of the budget, 0 for the smallest

    @property
    def steps(self) -> int:
        """Local steps of the round, E * batches."""
        return self.epochs * self.batches

    def generator(self, purpose: str) -> torch.Generator:
        """The generator of (seed, purpose, round, client)."""
        return generator(self.seed, f"{self.purpose}/{purpose}", self.round, self.client)
