"""What a client's training is told: the facts of its round, and the hooks of its sparse scheduler."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from flash_pl.seeding import generator

TRIAL = "trial"  # the purpose of a step that is thrown away


@dataclass(frozen=True)
class ClientContext:
    """Facts about one client's local training.

    Attributes:
        client: index of the client.
        round: index of the round.
        epochs: local epochs E.
        batches: batches per epoch.
        seed: of the run.
        purpose: prefix of the names of random draws; it keeps the draws of a first stage apart from those of a round.
        lr_scale: multiplies the module's own learning rates; the round's decay.
        tier: of the client's budget, 0 for the smallest.

    >>> context = ClientContext(client=3, round=0, epochs=2, batches=5, seed=1)
    >>> context.steps
    10
    >>> torch.rand(1, generator=context.generator("grow")).equal(torch.rand(1, generator=context.generator("grow")))
    True
    """

    client: int
    round: int
    epochs: int
    batches: int
    seed: int
    purpose: str = "round"
    lr_scale: float = 1.0
    tier: int = 0

    @property
    def steps(self) -> int:
        """Local steps of the round, E * batches."""
        return self.epochs * self.batches

    def generator(self, purpose: str) -> torch.Generator:
        """Return the random generator of (seed, purpose, round, client)."""
        return generator(self.seed, f"{self.purpose}/{purpose}", self.round, self.client)


class GradientHooks(Protocol):
    """The hooks of a sparse scheduler that are called inside the module's own hooks."""

    def wants_dense_gradients(self, client: Any, step: int) -> bool: ...

    def on_dense_gradients(self, client: Any, step: int) -> None: ...

    def on_gradients(self, client: Any, step: int) -> None: ...
