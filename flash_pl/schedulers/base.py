"""What a sparse training method may do, as hooks in the order in which they fire."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.report import Ballot
from flash_pl.schedulers.sensitivity import Sensitivity
from flash_pl.server import Keep, ServerState, Vote
from flash_pl.sparsity import FirstMask, Layout
from flash_pl.state import Stateful


class SparseScheduler(Stateful):
    """A method of federated sparse training: a client half and a server half.

    As it stands every client trains under one random mask that never moves. A method overrides the hooks it needs.

    Clients are trained by several processes, each with a scheduler of its own, while the server's hooks run alike in
    all of them. So a client's hooks may remember nothing for later clients: what the server should know goes into the
    report by :meth:`on_client_end`. A round that was interrupted or failed starts again with :meth:`on_round_start`.

    Args:
        first_mask: how the first mask is made.
    """

    sensitivity: Sensitivity | None = None  # stage 1, if the method has one
    voter: Vote = Keep()

    def __init__(self, first_mask: FirstMask | None = None) -> None:
        self.first_mask = first_mask or FirstMask()

    # The server, once

    def initial_mask(self, layout: Layout, density: float, found: Tensor | None, generator: torch.Generator) -> Tensor:
        """The first server mask, bool ``[layout.maskable]``, of target ``density``.

        ``found`` are the layer densities of stage 1 (float64 ``[layers]``), None if the method has no stage 1.
        """
        return self.first_mask(layout, density, found, generator)

    # The server, every round

    def on_round_start(self, server: ServerState, masks: Sequence[Tensor], round: int) -> None:
        """``masks`` are what the server offers its tiers of devices, bool ``[layout.maskable]`` each, nested."""

    # A client, every round

    def client_mask(self, offered: Tensor, held: Tensor | None, context: ClientContext) -> Tensor:
        """The mask under which the client starts, given the one ``offered`` to its tier and the one it has ``held``
        since its last round, on the CPU; None before its first."""
        return offered

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        """Weights and mask have arrived; the optimiser does not exist yet."""

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        """After every backward pass, before gradients are masked, clipped and applied. ``step`` counts from 0."""

    def wants_dense_gradients(self, step: int) -> bool:
        """Whether step ``step`` computes the gradients of pruned weights, which takes a dense pass; by default that is
        so if :meth:`on_dense_gradients` is overridden."""
        return self.sees_gradients

    @property
    def sees_gradients(self) -> bool:
        """Whether the method overrides :meth:`on_dense_gradients`."""
        return type(self).on_dense_gradients is not SparseScheduler.on_dense_gradients

    def on_batch_end(self, client: ClientState, step: int) -> None:
        """After every optimiser step; ``step`` counts from 1. The place to move the mask (``client.move_mask_``)."""

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        """After the last step; what is returned joins the report to the server as its extra tensors."""
        return {}

    # The server, every round that had a client

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        """``server.weights`` are the new aggregate: vote, then prune to the mask."""
        server.mask = self.voter(server, ballots, server.density)
        server.prune_()
