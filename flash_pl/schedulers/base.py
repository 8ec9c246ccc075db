"""What a sparse training method may do, as hooks in the order in which they fire."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.checks import check_integers
from flash_pl.client import ClientContext, ClientState
from flash_pl.errors import ConfigError
from flash_pl.server import FedAvg, Keep, MaskedAverage, ServerState, Vote
from flash_pl.server.updates import Ballot, Report
from flash_pl.sparsity import FirstMask, Layout, nested_masks


class SparseScheduler(Stateful):
    """A method of federated sparse training: a client half and a server half.

    As it stands every client trains under one random mask that never moves. A method overrides the hooks it needs.

    Clients are trained by several processes, each with a scheduler of its own, while the server's hooks run alike in
    all of them. So a client's hooks may remember nothing for later clients: what the server should know goes into the
    report by ``on_client_end``. A round that was interrupted or failed starts again with ``on_round_start``.

    Args:
        first_mask: how the first mask is made.

    Attributes:
        first_stage: what clients are asked before the first round, a ``FirstStage`` or None.
        voter: makes the next mask in ``on_aggregate``; by default the mask stays.
    """

    first_stage: FirstStage | None = None
    voter: Vote = Keep()

    def __init_subclass__(cls) -> None:
        """Refuse names that look like hooks and are none: they would never be called."""
        super().__init_subclass__()
        for name in vars(cls):
            if name.startswith("on_") and not hasattr(SparseScheduler, name):
                near = get_close_matches(name, [hook for hook in vars(SparseScheduler) if hook.startswith("on_")], 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise TypeError(f"{cls.__name__}.{name} is no hook of a scheduler{hint}")

    def __init__(self, first_mask: FirstMask | None = None) -> None:
        self.first_mask = first_mask or FirstMask()

    # The server, once

    def initial_mask(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> Tensor:
        """The first server mask, bool ``[layout.maskable]``, given ``server.layout``, its target ``server.density`` and
        the initial ``server.weights``.

        ``found`` is the mean of what clients found in the first stage, for FLASH layer densities (float64
        ``[layers]``); None if the method has no such stage.
        """
        return self.first_mask(server.layout, server.weights, server.density, found, generator)

    def start(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> None:
        """Give the server its first mask, adapt the initial weights to it and prune them: a masked average keeps what
        nobody holds, and that must be nothing. A run that goes on from a checkpoint does not call it again."""
        mask = self.initial_mask(server, found, generator)
        server.mask = mask.to(server.weights.device)
        self.first_mask.initialize(server.layout, server.weights, server.mask)
        server.prune_()

    def aggregator(self, tiers: int) -> FedAvg:
        """The average that the method uses where the user names none. With several tiers of devices plain averages
        would count the weights that small devices do not hold as zeros."""
        return MaskedAverage() if tiers > 1 else FedAvg()

    # The server, every round

    def tier_masks(self, server: ServerState, ratios: Sequence[float]) -> list[Tensor]:
        """What the server offers its tiers of devices, bool ``[layout.maskable]`` each, nested, the last one its own
        mask. ``ratios`` are their densities over the server's, increasing, the last one 1."""
        return nested_masks(server.layout, server.mask, server.weights, ratios)

    def on_round_start(self, server: ServerState, masks: Sequence[Tensor], round: int) -> None:
        """``masks`` are those of ``tier_masks``."""

    # A client, every round

    def client_mask(self, offered: Tensor, held: Tensor | None, context: ClientContext) -> Tensor:
        """The mask under which the client starts, given the one ``offered`` to its tier and the one it has ``held``
        since its last round, on the CPU; None before its first."""
        return offered

    def deployed_mask(self, offered: Tensor, held: Tensor | None, context: ClientContext) -> Tensor:
        """The mask of the model with which a client is evaluated, alike; by default the one under which it would
        start to train."""
        return self.client_mask(offered, held, context)

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        """Weights and mask have arrived; the optimizer does not exist yet."""

    def layer_rates(self, client: ClientState) -> Tensor | None:
        """Factors of the layers' learning rates in this training, float64 ``[layers]``; None leaves them alone."""
        return None

    def training(self, client: ClientState) -> AbstractContextManager[object]:
        """Entered while the client trains: the place for hooks on layers, which must be gone afterwards."""
        return nullcontext()

    def forward_weights(self, client: ClientState) -> Tensor | None:
        """What the next step computes with in place of the maskable weights, ``[maskable]``, 0 outside the mask; None
        for the weights themselves. Gradients are then those of what is returned: apply the chain rule in
        ``on_dense_gradients``."""
        return None

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        """After every backward pass, before gradients are masked, clipped and applied. ``step`` counts from 0."""

    def wants_dense_gradients(self, client: ClientState, step: int) -> bool:
        """Whether step ``step`` (from 0) computes the gradients of pruned weights, which takes a dense pass; by default
        that is so if ``on_dense_gradients`` is overridden."""
        return self.sees_gradients

    @property
    def sees_gradients(self) -> bool:
        """Whether the method overrides ``on_dense_gradients``."""
        return type(self).on_dense_gradients is not SparseScheduler.on_dense_gradients

    def on_batch_end(self, client: ClientState, step: int) -> None:
        """After every optimizer step; ``step`` counts from 1. The place to move the mask (``client.move_mask_``)."""

    def trained_densities(self, client: ClientState) -> Tensor:
        """Layer densities at which the client has computed, float64 ``[layers]``: its FLOPs are counted at them, but
        for gradients of pruned weights (``wants_dense_gradients``). By default the mask's, the mean over all
        steps."""
        return client.trained_densities

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        """After the last step; what is returned joins the report to the server as its extra tensors."""
        return {}

    # The server, every round that had a client

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        """``server.weights`` are the new aggregate, the union: vote, then prune to the mask, as it is evaluated."""
        server.mask = self.voter(server, ballots, server.density)
        server.prune_()


@dataclass(frozen=True)
class FirstStage(ABC):
    """Some clients train for a while and send one tensor each; the method makes its first mask from the mean.

    Their weights are thrown away, so ``trainee`` may do to them whatever it likes.

    Args:
        init_fraction: share of all clients that take part; at least one does.

    Attributes:
        epochs: their local epochs.
        batches: batches of an epoch, None for all.
    """

    init_fraction: float = 0.1
    epochs: int = field(default=1, init=False)
    batches: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.init_fraction <= 1:
            raise ConfigError("init_fraction", self.init_fraction, "a number in (0, 1]")
        check_integers(epochs=self.epochs)
        check_integers(optional=True, batches=self.batches)

    def clients(self, clients: int) -> int:
        """How many of ``clients`` take part, C = max(1, int(init_frac * N))."""
        return max(1, int(self.init_fraction * clients))

    @abstractmethod
    def trainee(self, first_mask: FirstMask) -> SparseScheduler:
        """The client half of the method that they follow; its ``initial_mask`` is the one with which all start."""

    @abstractmethod
    def size(self, layout: Layout) -> int:
        """How many numbers a client sends."""

    @abstractmethod
    def found(self, report: Report) -> Tensor:
        """What a client sends, ``[size]``, below 2^22 in magnitude."""
