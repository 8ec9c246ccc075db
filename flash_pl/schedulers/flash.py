"""NST: every client finds a mask of its own, and nobody brings them together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from flash_pl.client import ClientContext, ClientState
from flash_pl.errors import ConfigError
from flash_pl.schedulers.base import FirstStage, SparseScheduler
from flash_pl.schedulers.timing import EveryEpoch, Interval, LastStep, Linear, RateDecay
from flash_pl.server import MagnitudeVote, ServerState, Vote
from flash_pl.server.updates import Ballot, Report
from flash_pl.sparsity import FirstMask, Layout, Move


class Dense(SparseScheduler):
    """Every weight is active in every client; plain federated training, whatever the target density and
    whatever devices can afford."""

    def initial_mask(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> Tensor:
        return torch.ones(server.layout.maskable, dtype=torch.bool)

    def tier_masks(self, server: ServerState, ratios: Sequence[float]) -> list[Tensor]:
        return [server.mask] * len(ratios)


class PDST(SparseScheduler):
    """Pre-defined sparse training: consensus without a search (FLASH, baseline of stage 2)."""


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


@dataclass(frozen=True)
class Sensitivity(FirstStage):
    """A few clients train long with dynamic sparse training; only their layer densities are used (FLASH stage 1).

    Args:
        init_fraction: as in ``FirstStage``.
        epochs: their local epochs E_d.
        prune_rate: p, the fraction dropped by the first move.
        move: how a mask moves.
    """

    epochs: int = 10
    prune_rate: float = 0.25
    move: Move = field(default_factory=Move)

    def trainee(self, first_mask: FirstMask) -> DynamicSparseTraining:
        return DynamicSparseTraining(self.prune_rate, self.move, first_mask)

    def size(self, layout: Layout) -> int:
        return len(layout.layers)

    def found(self, report: Report) -> Tensor:
        return report.densities


class SPDST(SparseScheduler):
    """Sensitivity-driven pre-defined sparse training (FLASH stage 1, then a mask that never moves).

    Args:
        sensitivity: the settings of stage 1.
        first_mask: as in ``SparseScheduler``.
    """

    def __init__(
        self,
        sensitivity: Sensitivity | None = None,
        first_mask: FirstMask | None = None,
    ) -> None:
        super().__init__(first_mask)
        self.first_stage = sensitivity or Sensitivity()


class JMWST(DynamicSparseTraining):
    """Joint mask and weight sparse training (FLASH stage 1, then stage 2 with voting).

    In rounds in which masks move the clients move the server's mask while they train and the server votes; in the
    rounds between, if there are any, the mask is frozen. FLASH's r_int is ``interval.rounds``.

    Args:
        voter: the vote, by default magnitude with averaged layer budgets.
        sensitivity: the settings of stage 1.
        prune_rate, move, first_mask, decay, interval: as in ``DynamicSparseTraining``.
    """

    def __init__(
        self, voter: Vote | None = None, sensitivity: Sensitivity | None = None, **keywords: Unpack[MoveKeywords]
    ) -> None:
        super().__init__(**keywords)
        self.voter = voter or MagnitudeVote()
        self.first_stage = sensitivity or Sensitivity()

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        if self.interval.in_round(round):
            super().on_aggregate(server, ballots, round)


class NST(DynamicSparseTraining):
    """Naive sparse training: the baseline whose masks drift apart (FLASH, stage 2).

    A client starts from one shared random mask, or its tier's part of it, moves it while it trains and takes it up
    again in its next round; if it is in another tier then, it starts from that one's part of the shared mask. The
    server averages over the union and keeps it; its mask only says which weights a device of density d would get.

    Args:
        voter: picks that mask, by default magnitude with averaged layer budgets.
        prune_rate, move, first_mask, decay, interval: as in ``DynamicSparseTraining``.
    """

    def __init__(self, voter: Vote | None = None, **keywords: Unpack[MoveKeywords]) -> None:
        super().__init__(**keywords)
        self.voter = voter or MagnitudeVote()
        self.shared: list[Tensor] = []  # one mask a tier

    def on_round_start(self, server: ServerState, masks: Sequence[Tensor], round: int) -> None:
        if round == 0:
            self.shared = [mask.cpu() for mask in masks]

    def client_mask(self, offered: Tensor, held: Tensor | None, context: ClientContext) -> Tensor:
        shared = self.shared[context.tier]
        return (shared if held is None or self.tier_of(held) != context.tier else held).to(offered.device)

    def tier_of(self, held: Tensor) -> int:
        """The tier whose number of weights is the nearest: moves keep it, the authors' to a few weights."""
        weights = int(held.count_nonzero())
        return min(range(len(self.shared)), key=lambda tier: abs(int(self.shared[tier].count_nonzero()) - weights))

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        server.mask = self.voter(server, ballots, server.density)

    def state_dict(self) -> dict[str, Any]:
        return {"shared": list(self.shared)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shared = list(state["shared"])
