"""Which clients take part in a round."""

from dataclasses import dataclass
from typing import Protocol

import torch

from flash_pl.seeding import generator


class ClientSampler(Protocol):
    """Draws the cohort of a round: distinct client ids, in the order in which they are trained."""

    def __call__(self, clients: int, cohort: int, seed: int, round: int) -> list[int]: ...


@dataclass(frozen=True)
class UniformSampler:
    """``cohort`` of ``clients``, each equally likely, without replacement."""

    def __call__(self, clients: int, cohort: int, seed: int, round: int) -> list[int]:
        return torch.randperm(clients, generator=generator(seed, "cohort", round))[:cohort].tolist()
