"""FLASH (arXiv 2208.13092) and its baselines: Dense, PDST, SPDST, JMWST, NST, and the clients' moving masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch
from lightning.fabric.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import Unpack

from flash_pl.checks import check_numbers
from flash_pl.client import ClientContext, ClientState
from flash_pl.saved_state import Array, Keys, ListOf
from flash_pl.schedulers.base import FirstStage, SparseScheduler
from flash_pl.schedulers.timing import EveryEpoch, Interval, LastStep, Linear, RateDecay
from flash_pl.server import ClientUpdate, MagnitudeVote, ServerState, Vote
from flash_pl.sparsity import FirstMask, Layout, Move


class Dense(SparseScheduler):
    """Plain federated training: every weight is active in every client, whatever the target density and the tiers.

    >>> from flash_pl import FederatedTrainer
    >>> trainer = FederatedTrainer(Dense(), rounds=5, cohort=10)
    """

    has_target = False

    def initial_mask(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> Tensor:
        return torch.ones(server.layout.maskable, dtype=torch.bool)

    def tier_masks(self, server: ServerState, ratios: Sequence[float]) -> list[Tensor]:
        return [server.mask] * len(ratios)


class PDST(SparseScheduler):
    """Pre-defined sparse training: one random mask that never moves (FLASH, baseline of stage 2).

    >>> from flash_pl import FederatedTrainer
    >>> from flash_pl.sparsity import ERK
    >>> trainer = FederatedTrainer(PDST(FirstMask(distribution=ERK())), density=0.05, rounds=5, cohort=10)
    """


class MoveKeywords(TypedDict, total=False):
    """The keywords of ``DynamicSparseTraining``, which its subclasses take besides their own."""

    prune_rate: float
    move: Move | None
    first_mask: FirstMask | None
    decay: RateDecay | None
    interval: Interval | None


class DynamicSparseTraining(SparseScheduler):
    """Clients move their mask while they train: by default magnitude pruning and random growth (FLASH, section "DST").

    A move drops the fraction ``prune_rate`` times its ``decay`` of the active weights and grows as many.

    Args:
        prune_rate: p, in (0, 1].
        move: how a mask moves.
        first_mask: as in ``SparseScheduler``.
        decay: how the fraction falls, by default linearly to 0 over the client's steps.
        interval: when masks move, by default after every local epoch but the last; of a single epoch halfway.

    Raises:
        ConfigError: ``prune_rate`` is not in (0, 1], or the decay is 0 whenever the mask would move.

    >>> from flash_pl.schedulers import Cosine
    >>> from flash_pl.sparsity import Gradient, KeepLayers
    >>> rigl = DynamicSparseTraining(0.3, Move(growth=Gradient(), redistribution=KeepLayers()), decay=Cosine(rounds=75))
    >>> rigl.rate(ClientContext(client=0, round=0, epochs=1, batches=20, seed=1), step=0)
    0.3
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
        check_numbers("(0, 1]", prune_rate=prune_rate)
        self.prune_rate = prune_rate
        self.move, self.decay, self.interval = move or Move(), decay or Linear(), interval or EveryEpoch()
        if isinstance(self.interval, LastStep):
            self.decay.check_moves_at_round_ends()
        self.gradient: Tensor | None = None

    def rate(self, context: ClientContext, step: int) -> float:
        """The fraction that a move after the client's ``step``-th step (from 1) drops."""
        return self.prune_rate * self.decay(context.round, min(1.0, step / context.steps))

    def due(self, context: ClientContext, step: int) -> bool:
        """Whether the mask moves after the client's ``step``-th step (from 1)."""
        return self.interval.due(context, step) and self.rate(context, step) > 0

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        self.gradient = None
        starts = context.round == 0 and self.interval.in_round(0)
        if starts and not any(self.due(context, step) for step in range(1, context.steps + 2)):
            remedy = "use more local epochs or smaller batches if it should"
            facts = f"batches: {context.batches}, local epochs: {context.epochs}"
            rank_zero_warn(f"a client never moves its mask ({facts}); {remedy}")

    @property
    def sees_gradients(self) -> bool:
        own = type(self).on_gradients is not SparseScheduler.on_gradients
        return own or self.move.needs_gradient or self._subclass_sees_dense_gradients

    @property
    def _subclass_sees_dense_gradients(self) -> bool:
        return type(self).on_dense_gradients is not DynamicSparseTraining.on_dense_gradients

    def wants_dense_gradients(self, client: ClientState, step: int) -> bool:
        if not self.move.needs_gradient:
            return self._subclass_sees_dense_gradients
        accumulates = self.move.memory > 0 and self.interval.in_round(client.context.round)
        return accumulates or self.due(client.context, step + 1)

    def wants_batch_after_training(self, client: ClientState) -> bool:
        return self.due(client.context, client.context.steps + 1)

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        if self.move.needs_gradient:  # else a subclass wants dense gradients
            before = self.gradient
            self.gradient = client.gradients()
            if before is not None and self.move.memory:  # 0 times an infinite gradient would be NaN
                self.gradient.add_(before, alpha=self.move.memory)

    def on_batch_end(self, client: ClientState, step: int) -> None:
        context = client.context
        lacks_gradient = self.move.needs_gradient and self.gradient is None  # a module may skip a batch
        if self.due(context, step) and not lacks_gradient:
            rate, draws = self.rate(context, step), context.generator(f"move {step}")
            moved = self.move(client.layout, client.weights, client.mask, rate, draws, self.gradient)
            if not self.move.memory:
                self.gradient = None  # the next move needs a new one
            client.move_mask_(moved.mask, moved.survivors)


@dataclass(frozen=True)
class Sensitivity(FirstStage):
    """FLASH stage 1: a few clients train long with dynamic sparse training; only their layer densities are used.

    Args:
        init_fraction: as in ``FirstStage``.
        epochs: local epochs E_d of these clients.
        prune_rate: p, the fraction that the first move drops.
        move: how a mask moves.

    >>> SPDST(Sensitivity(init_fraction=0.05, epochs=5)).first_stage.epochs
    5
    """

    epochs: int = 10
    prune_rate: float = 0.25
    move: Move = field(default_factory=Move)

    def trainee(self, first_mask: FirstMask) -> DynamicSparseTraining:
        return DynamicSparseTraining(self.prune_rate, self.move, first_mask)

    def size(self, layout: Layout) -> int:
        return len(layout.layers)

    def measurement(self, update: ClientUpdate) -> Tensor:
        return update.densities


class SPDST(SparseScheduler):
    """Sensitivity-driven pre-defined sparse training: FLASH stage 1, then a random mask of its layer densities that
    never moves.

    Args:
        sensitivity: the settings of stage 1.
        first_mask: as in ``SparseScheduler``.

    >>> from flash_pl import FederatedTrainer
    >>> trainer = FederatedTrainer(SPDST(Sensitivity(epochs=5)), density=0.05, rounds=5, cohort=10)
    """

    def __init__(self, sensitivity: Sensitivity | None = None, first_mask: FirstMask | None = None) -> None:
        super().__init__(first_mask)
        self.first_stage = sensitivity or Sensitivity()


class JMWST(DynamicSparseTraining):
    """Joint mask and weight sparse training: FLASH stage 1, then clients move the mask and the server votes on it.

    In rounds between those of the interval the mask is frozen. FLASH's r_int is ``interval.rounds``.

    Args:
        voter: the vote, by default magnitude with the mean of the clients' layer densities.
        sensitivity: the settings of stage 1.
        prune_rate, move, first_mask, decay, interval: as in ``DynamicSparseTraining``.

    >>> from flash_pl import FederatedTrainer
    >>> every_fifth_round = JMWST(prune_rate=0.3, interval=EveryEpoch(rounds=5))
    >>> trainer = FederatedTrainer(every_fifth_round, density=0.05, rounds=20, cohort=10)
    """

    def __init__(
        self, voter: Vote | None = None, sensitivity: Sensitivity | None = None, **keywords: Unpack[MoveKeywords]
    ) -> None:
        super().__init__(**keywords)
        self.voter = voter or MagnitudeVote()
        self.first_stage = sensitivity or Sensitivity()

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        if self.interval.in_round(round):
            super().on_aggregate(server, updates, round)


class NST(DynamicSparseTraining):
    """Naive sparse training, the baseline whose masks drift apart (FLASH, stage 2).

    A client starts from one shared random mask, or its tier's part of it, moves it while it trains and goes on with it
    in its next round; after a change of tier it starts again from its new tier's part of the shared mask. The server
    keeps the union of the clients' models; its mask only says which weights a device of density d would get.

    Args:
        voter: makes that mask, by default by magnitude with the mean of the clients' layer densities.
        prune_rate, move, first_mask, decay, interval: as in ``DynamicSparseTraining``.

    >>> from flash_pl import FederatedTrainer
    >>> trainer = FederatedTrainer(NST(prune_rate=0.3), density=0.05, rounds=5, cohort=10)
    """

    saved = Keys({"shared_masks": ListOf(Array(torch.bool, ("maskable",)), "tiers")})

    def __init__(self, voter: Vote | None = None, **keywords: Unpack[MoveKeywords]) -> None:
        super().__init__(**keywords)
        self.voter = voter or MagnitudeVote()
        self.shared_masks: list[Tensor] = []  # one per tier
        self.layout: Layout

    def tier_masks(self, server: ServerState, ratios: Sequence[float]) -> list[Tensor]:
        self.layout = server.layout
        return super().tier_masks(server, ratios)

    def on_round_start(self, server: ServerState, tier_masks: Sequence[Tensor], round: int) -> None:
        if round == 0:
            self.shared_masks = list(tier_masks)
        # On the device of the clients; a checkpoint has them on the CPU.
        self.shared_masks = [mask.to(server.mask.device) for mask in self.shared_masks]

    def client_mask(self, tier_mask: Tensor, previous_mask: Tensor | None, context: ClientContext) -> Tensor:
        if previous_mask is None or self.tier_of(previous_mask) != context.tier:
            return self.shared_masks[context.tier].to(tier_mask.device)
        return previous_mask

    def tier_of(self, mask: Tensor) -> int:
        """The tier of the nearest cost; moves keep it, the authors' moves nearly."""
        cost = self.layout.cost(mask)
        costs = [self.layout.cost(shared) for shared in self.shared_masks]
        return min(range(len(costs)), key=lambda tier: abs(costs[tier] - cost))

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        server.mask = self.voter(server, updates, server.density)

    def state_dict(self) -> dict[str, Any]:
        return {"shared_masks": [mask.cpu() for mask in self.shared_masks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shared_masks = list(state["shared_masks"])

    def compared_state(self) -> dict[str, Any]:
        return {"shared_masks": self.shared_masks}
