"""Dynamic sparse training inside a client: the mask moves while the weights train."""

from typing import TypedDict

from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.errors import ConfigError
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.schedulers.decay import Linear, RateDecay
from flash_pl.schedulers.interval import EveryEpoch, Interval, LastStep
from flash_pl.sparsity import FirstMask, Move


class MoveKeywords(TypedDict, total=False):
    """The keywords that methods with moves take besides their own."""

    prune_rate: float
    move: Move | None
    first_mask: FirstMask | None
    decay: RateDecay | None
    interval: Interval | None


class DynamicSparseTraining(SparseScheduler):
    """Clients move their mask (by default as in FLASH, section "DST": magnitude pruning and random growth).

    A move drops the fraction ``prune_rate`` times its ``decay``.

    Args:
        prune_rate: p, in (0, 1].
        move: how a mask moves.
        first_mask: as in ``SparseScheduler``.
        decay: how the rate falls, by default linearly to 0 over the client's steps.
        interval: when masks move, by default at the end of every local epoch but the last, with a single epoch halfway.

    Raises:
        ConfigError: ``prune_rate`` is not in (0, 1], or the decay is 0 whenever the mask would move.
    """

    def __init__(
        self,
        prune_rate: float = 0.25,
        move: Move | None = None,
        first_mask: FirstMask | None = None,
        decay: RateDecay | None = None,
        interval: Interval | None = None,
    ) -> None:
        super().__init__(first_mask)
        if not 0 < prune_rate <= 1:
            raise ConfigError("prune_rate", prune_rate, "a number in (0, 1]")
        self.prune_rate = prune_rate
        self.move, self.decay, self.interval = move or Move(), decay or Linear(), interval or EveryEpoch()
        if isinstance(self.interval, LastStep):
            self.decay.at_round_ends()
        self.gradient: Tensor | None = None

    def due(self, context: ClientContext, step: int) -> bool:
        """Whether the mask moves after the client's ``step``-th step (from 1)."""
        return self.interval.due(context, step)

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        self.gradient = None

    @property
    def sees_gradients(self) -> bool:
        overridden = type(self).on_dense_gradients is not DynamicSparseTraining.on_dense_gradients
        return self.move.needs_gradient or overridden

    def wants_dense_gradients(self, client: ClientState, step: int) -> bool:
        if not self.move.needs_gradient:
            return self.sees_gradients
        remembers = self.move.memory > 0 and self.interval.in_round(client.context.round)
        return remembers or self.due(client.context, step + 1)

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        if self.move.needs_gradient and self.wants_dense_gradients(client, step):
            before = self.gradient
            self.gradient = client.gradients()
            if before is not None and self.move.memory:  # 0 times an infinite gradient would be NaN
                self.gradient.add_(before, alpha=self.move.memory)

    def on_batch_end(self, client: ClientState, step: int) -> None:
        context = client.context
        unseen = self.move.needs_gradient and self.gradient is None  # a module may skip a batch
        if self.due(context, step) and not unseen:
            rate = self.prune_rate * self.decay(context.round, step / context.steps)
            draws = context.generator(f"move {step}")
            moved = self.move(client.layout, client.weights, client.mask, rate, draws, self.gradient)
            if not self.move.memory:
                self.gradient = None  # not for the next move
            client.move_mask_(moved.mask, moved.survivors)
