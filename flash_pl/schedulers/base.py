"""The base class of all sparse schedulers: hooks in the order in which they fire."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.checks import check_integers, check_numbers
from flash_pl.client import ClientContext, ClientState
from flash_pl.server import ClientUpdate, FedAvg, KeepMask, MaskedAverage, ServerState, Vote
from flash_pl.sparsity import FirstMask, Layout, nested_masks


class SparseScheduler(Stateful):
    """A method of federated sparse training, with a client half and a server half.

    The base class trains every client under one random mask that never moves. A method overrides the hooks it needs.

    Several processes train the clients, each with a scheduler of its own; the server's hooks run alike in all of them.
    So a client's hook must not remember anything for later clients: whatever the server needs goes into the update, by
    ``on_client_end``. A round that was interrupted or failed starts again with ``on_round_start``.

    Args:
        first_mask: how the first mask is made.

    Attributes:
        first_stage: what clients measure before the first round, a ``FirstStage`` or None.
        voter: makes the next mask in ``on_aggregate``; by default the mask stays.
        has_target: whether the server's mask should have the target density; False if it is all ones whatever d is.

    A scheduler that grows the mask again wherever it likes is a few lines:

    >>> from flash_pl.sparsity import Move
    >>> class RandomWalk(SparseScheduler):
    ...     def on_aggregate(self, server, updates, round):
    ...         server.prune_()
    ...         moved = Move()(server.layout, server.weights, server.mask, 0.1, server.generator("walk", round))
    ...         server.mask = moved.mask
    ...         server.prune_()
    >>> from flash_pl.testing import check_scheduler
    >>> check_scheduler(RandomWalk)
    """

    first_mask = FirstMask()  # of a subclass that does not call super().__init__()
    first_stage: FirstStage | None = None
    voter: Vote = KeepMask()
    has_target: bool = True

    def __init_subclass__(cls) -> None:
        """Refuse methods whose name begins like a hook's but is none: they would never be called."""
        super().__init_subclass__()
        hooks = [name for name in vars(SparseScheduler) if name.startswith("on_")]
        for name in vars(cls):
            if name.startswith("on_") and not hasattr(SparseScheduler, name):
                near = get_close_matches(name, hooks, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise TypeError(f"{cls.__name__}.{name} is not a hook of a scheduler{hint}")

    def __init__(self, first_mask: FirstMask | None = None) -> None:
        self.first_mask = first_mask or FirstMask()

    # Server, once

    def initial_mask(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return the first server mask, bool ``[layout.maskable]``.

        Args:
            server: with its ``layout``, target ``density`` and initial ``weights``.
            measured: the mean of the clients' measurements in stage 1, for FLASH layer densities (float64
                ``[layers]``); None without a stage 1.
            generator: of random choices.
        """
        return self.first_mask(server.layout, server.weights, server.density, measured, generator)

    def start(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> None:
        """Give the server its first mask, adapt the initial weights to it and prune them.

        ``MaskedAverage`` keeps the server's value of a weight that no client was offered, so pruned weights must be 0
        from the start. A run that goes on from a checkpoint does not call this hook again.
        """
        mask = self.initial_mask(server, measured, generator)
        if not isinstance(mask, Tensor):
            raise TypeError(f"initial_mask returns {type(mask).__name__}, not a mask")
        server.mask = mask.to(server.weights.device)
        self.first_mask.initialize(server.layout, server.weights, server.mask)
        server.prune_()

    def aggregator(self, tiers: int) -> FedAvg:
        """Return the aggregator to use unless the user names one, for a number of tiers.

        With several tiers a plain average would count the weights that small devices do not have as zeros.
        """
        return MaskedAverage() if tiers > 1 else FedAvg()

    # Server, every round

    def tier_masks(self, server: ServerState, ratios: Sequence[float]) -> list[Tensor]:
        """Return the mask of every tier, bool ``[layout.maskable]`` each: nested, the last one the server's own.

        ``ratios`` are the tiers' densities over the server's, increasing to 1.
        """
        return nested_masks(server.layout, server.mask, server.weights, ratios)

    def on_round_start(self, server: ServerState, tier_masks: Sequence[Tensor], round: int) -> None:
        """Called before the clients of a round train."""

    # Client, every round

    def client_mask(self, tier_mask: Tensor, previous_mask: Tensor | None, context: ClientContext) -> Tensor:
        """Return the mask under which a client starts to train.

        Args:
            tier_mask: the server's mask for the client's tier.
            previous_mask: the mask with which the client ended its last round, on the same device; None before its
                first round.
            context: the facts of the client's training.
        """
        return tier_mask

    def deployed_mask(self, tier_mask: Tensor, previous_mask: Tensor | None, context: ClientContext) -> Tensor:
        """Return the mask of the model with which a client is evaluated, by default its ``client_mask``."""
        return self.client_mask(tier_mask, previous_mask, context)

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        """Called when weights and mask have arrived and the optimizer does not exist yet."""

    def layer_rates(self, client: ClientState) -> Tensor | None:
        """Return factors of the layers' learning rates, float64 ``[layers]``; None changes no rate."""
        return None

    def training(self, client: ClientState) -> AbstractContextManager[object]:
        """Return a context that is entered while the client trains, such as one that adds hooks to layers and removes
        them."""
        return nullcontext()

    def forward_weights(self, client: ClientState) -> Tensor | None:
        """Return the weights with which the next step computes, ``[maskable]``, 0 outside the mask; None for its own.

        Gradients are then those of the returned weights: apply the chain rule in ``on_gradients``.
        """
        return None

    def wants_dense_gradients(self, client: ClientState, step: int) -> bool:
        """Return whether step ``step`` (from 0) computes the gradients of pruned weights, which takes a dense pass.

        By default every step does if ``on_dense_gradients`` is overridden.
        """
        return type(self).on_dense_gradients is not SparseScheduler.on_dense_gradients

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        """Called after the backward pass of a step for which ``wants_dense_gradients`` is true."""

    def on_gradients(self, client: ClientState, step: int) -> None:
        """Called after every backward pass, before gradients are masked, clipped and applied, for example to scale
        them (``client.scale_gradients_``); ``step`` is from 0. Gradients of pruned weights may be wrong."""

    @property
    def sees_gradients(self) -> bool:
        """Whether a hook may look at gradients: ``on_dense_gradients`` or ``on_gradients`` is overridden."""
        cls, base = type(self), SparseScheduler
        return cls.on_dense_gradients is not base.on_dense_gradients or cls.on_gradients is not base.on_gradients

    def wants_batch_after_training(self, client: ClientState) -> bool:
        """Return whether the client computes dense gradients of one more batch after its last step, without a step.

        It then calls ``on_dense_gradients`` and ``on_batch_end`` as for a step.
        """
        return False

    def on_batch_end(self, client: ClientState, step: int) -> None:
        """Called after every optimizer step, where the mask may move (``client.move_mask_``); ``step`` is from 1."""

    def trained_densities(self, client: ClientState) -> Tensor:
        """Return the layer densities at which FLOPs of the training are counted, float64 ``[layers]``.

        By default the densities of the mask, a mean over all steps. Gradients of pruned weights are counted apart
        (``wants_dense_gradients``).
        """
        return client.trained_densities

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        """Called after the last step; the returned tensors join the client's update as ``update.extra``."""
        return {}

    # Server, every round in which a client was in time

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        """Vote on the next mask and prune the server to it; ``server.weights`` are the new aggregate, the union."""
        server.mask = self.voter(server, updates, server.density)
        server.prune_()


@dataclass(frozen=True)
class FirstStage(ABC):
    """Stage 1: some clients train for a while and send one tensor each; the scheduler makes its first mask of the mean.

    The trained weights are thrown away, so ``trainee`` may change them in any way.

    Args:
        init_fraction: share of all clients that take part; at least one does.

    Attributes:
        epochs: their local epochs.
        batches: batches of an epoch, None for all.

    >>> from flash_pl.schedulers import Sensitivity
    >>> Sensitivity(init_fraction=0.05).num_clients(total=100)
    5
    """

    init_fraction: float = 0.1
    epochs: int = field(default=1, init=False)
    batches: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_numbers("(0, 1]", init_fraction=self.init_fraction)
        check_integers(epochs=self.epochs)
        check_integers(optional=True, batches=self.batches)

    def num_clients(self, total: int) -> int:
        """How many of ``total`` clients take part, C = max(1, floor(init_fraction * N)).

        The product is rounded first: 0.29 * 100 is a little below 29 in floating point.
        """
        return max(1, int(round(self.init_fraction * total, 6)))

    @abstractmethod
    def trainee(self, first_mask: FirstMask) -> SparseScheduler:
        """The scheduler whose client half these clients follow; all start from its ``initial_mask``."""

    @abstractmethod
    def size(self, layout: Layout) -> int:
        """How many numbers a client sends."""

    @abstractmethod
    def measurement(self, update: ClientUpdate) -> Tensor:
        """The numbers that a client sends, ``[size]``, below 2^22 in magnitude."""
