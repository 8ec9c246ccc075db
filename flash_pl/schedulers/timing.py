"""When a mask moves (``Interval``), and how the fraction that a move drops falls with time (``RateDecay``)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from flash_pl.checks import check_integers, check_numbers
from flash_pl.client import ClientContext
from flash_pl.errors import ConfigError


@dataclass(frozen=True)
class RateDecay(ABC):
    """A factor in [0, 1] of the first rate, over the steps of a client's round or over those of many rounds.

    Args:
        rounds: number of rounds, whole or not, over which the factor falls to its end; None lets it fall within every
            round.

    >>> decay = Cosine(rounds=50)
    >>> decay(0, share=0.0), round(decay(24, share=1.0), 3), decay(49, share=1.0)
    (1.0, 0.5, 0.0)
    """

    rounds: float | None = None

    def __post_init__(self) -> None:
        check_numbers("(0, inf)", optional=True, rounds=self.rounds)

    def __call__(self, round: int, share: float = 1.0) -> float:
        """The factor in a round (from 0), after the ``share`` of a client's steps, by default after all of them."""
        return self.shape(share if self.rounds is None else min(max(0.0, (round + share) / self.rounds), 1.0))

    def check_moves_at_round_ends(self) -> None:
        """Check that the factor is not 0 after the last step of every round, where some masks move.

        Raises:
            ConfigError: it is, so the mask would never move.
        """
        if self.rounds is None and self(0) == 0:
            problem = f"{type(self).__name__} without rounds is 0 after the last step of a round, where the mask moves"
            raise ConfigError("decay", problem, "give it rounds, or use decay=constant")

    @abstractmethod
    def shape(self, time: float) -> float:
        """The factor at ``time`` in [0, 1]."""


class Linear(RateDecay):
    """1 - t (FLASH).

    >>> Linear()(round=0, share=0.25)
    0.75
    """

    def shape(self, time: float) -> float:
        return 1 - time


class Cosine(RateDecay):
    """(1 + cos(pi t)) / 2 (Evci et al., Rigging the Lottery, ICML 2020, section 3).

    >>> round(Cosine()(round=0, share=0.5), 3)
    0.5
    """

    def shape(self, time: float) -> float:
        return (1 + math.cos(math.pi * time)) / 2


class Constant(RateDecay):
    """1 at all times.

    >>> Constant()(round=7)
    1.0
    """

    def shape(self, time: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Interval(ABC):
    """The steps of a round after which the mask moves, in every ``rounds``-th round before round ``until``.

    Args:
        rounds: rounds from one with moves to the next.
        until: number of rounds after which masks stay; None for never.
        start: rounds before the first one with moves.

    >>> interval = LastStep(rounds=10, until=45, start=10)
    >>> [round for round in range(60) if interval.in_round(round)]
    [10, 20, 30, 40]
    """

    rounds: int = 1
    until: int | None = None
    start: int = 0

    def __post_init__(self) -> None:
        check_integers(rounds=self.rounds)
        check_integers(0, start=self.start)
        check_integers(optional=True, until=self.until)

    def in_round(self, round: int) -> bool:
        """Whether masks move in this round (from 0)."""
        since = round - self.start
        return since >= 0 and since % self.rounds == 0 and (self.until is None or round < self.until)

    def due(self, context: ClientContext, step: int) -> bool:
        """Whether the mask moves after the client's ``step``-th step (from 1)."""
        return self.in_round(context.round) and self.after(context, step)

    @abstractmethod
    def after(self, context: ClientContext, step: int) -> bool:
        """Whether, in a round with moves, the mask moves after the ``step``-th step (from 1)."""


class EveryEpoch(Interval):
    """After every local epoch but the last; of a single epoch after batch index floor(batches / 2) (FLASH).

    >>> context = ClientContext(client=0, round=0, epochs=3, batches=5, seed=1)
    >>> [step for step in range(1, 16) if EveryEpoch().due(context, step)]
    [5, 10]
    """

    def after(self, context: ClientContext, step: int) -> bool:
        if context.epochs == 1:
            return step == context.batches // 2 + 1
        return step % context.batches == 0 and step < context.steps


@dataclass(frozen=True)
class EverySteps(Interval):
    """After every ``steps``-th step but the last of the round, so that grown weights train before they are sent.

    >>> context = ClientContext(client=0, round=0, epochs=3, batches=5, seed=1)
    >>> [step for step in range(1, 16) if EverySteps(steps=4).due(context, step)]
    [4, 8, 12]
    """

    steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integers(steps=self.steps)

    def after(self, context: ClientContext, step: int) -> bool:
        return step % self.steps == 0 and step < context.steps


class LastStep(Interval):
    """After the last step: grown weights are sent to the server as 0 (FedDST).

    >>> context = ClientContext(client=0, round=0, epochs=3, batches=5, seed=1)
    >>> [step for step in range(1, 16) if LastStep().due(context, step)]
    [15]
    """

    def after(self, context: ClientContext, step: int) -> bool:
        return step == context.steps


class AfterTraining(LastStep):
    """After the last step, by the gradient of one more batch with which no step is taken (authors of FedDST, FedRTS).

    The batch is the first of one more epoch. Its FLOPs are counted. What the module logs for it is left out, but
    torchmetrics that ``training_step`` updates and batch norms see it.

    >>> context = ClientContext(client=0, round=0, epochs=3, batches=5, seed=1)
    >>> [step for step in range(1, 17) if AfterTraining().due(context, step)]
    [16]
    """

    def after(self, context: ClientContext, step: int) -> bool:
        return step == context.steps + 1
