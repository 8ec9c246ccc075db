"""How the fraction of weights that a move drops falls with time."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from flash_pl.checks import check_integers
from flash_pl.errors import ConfigError


@dataclass(frozen=True)
class RateDecay(ABC):
    """A factor in [0, 1] of the first rate, over the steps of a client's round or over rounds.

    Args:
        rounds: after so many rounds the factor is at its end; None lets it run from 1 to its end within every round.
    """

    rounds: int | None = None

    def __post_init__(self) -> None:
        check_integers(optional=True, rounds=self.rounds)

    def __call__(self, round: int, share: float = 1.0) -> float:
        """In a round (from 0), after the ``share`` of a client's steps."""
        return self.shape(share if self.rounds is None else min(1.0, round / self.rounds))

    def at_round_ends(self) -> "RateDecay":
        """Itself, for a mask that moves only after the last step of a round.

        Raises:
            ConfigError: it is always 0 there, so the mask would never move.
        """
        if self(0) == 0:
            raise ConfigError("decay", self, "one with rounds, or constant: within a round it is 0 after the last step")
        return self

    @abstractmethod
    def shape(self, time: float) -> float:
        """The factor at ``time`` in [0, 1]."""


class Linear(RateDecay):
    """1 - t (FLASH)."""

    def shape(self, time: float) -> float:
        return 1 - time


class Cosine(RateDecay):
    """(1 + cos(pi t)) / 2 (Evci et al., Rigging the Lottery, ICML 2020, section 3)."""

    def shape(self, time: float) -> float:
        return (1 + math.cos(math.pi * time)) / 2


class Constant(RateDecay):
    """1."""

    def shape(self, time: float) -> float:
        return 1.0
