"""What Top-K, ZeroFL and SparsyFed share: sparse uploads of a union that nobody prunes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.report import Ballot
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.server import FedAvg, ServerState, ZeroingMaskedAverage
from flash_pl.sparsity import Layout, top_k, total_count


class MagnitudeUpload(SparseScheduler):
    """Clients get the server's whole model and send back their weights of largest magnitude.

    The first model is dense; later ones have the union of the last cohort's supports, and that is what goes down. The
    server's mask only says which weights a device of density d would get.

    Attributes:
        support: of the server's model, bool ``[layout.maskable]``, and ``kept``: weights that a client of each tier
            sends.
    """

    support: Tensor
    kept: list[int]

    def __init__(self) -> None:
        super().__init__()

    def start(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> None:
        server.mask = self.largest(server.layout, server.weights, total_count(server.layout.sizes, server.density))

    def aggregator(self, tiers: int) -> FedAvg:
        """A weight that nobody has sent is 0, with tiers too: what goes down is the union of what came up."""
        return ZeroingMaskedAverage() if tiers > 1 else FedAvg()

    def tier_masks(self, server: ServerState, ratios: Sequence[float]) -> list[Tensor]:
        masks = super().tier_masks(server, ratios)
        self.support = server.weights[: server.layout.maskable] != 0
        self.kept = [int(mask.count_nonzero()) for mask in masks]
        return masks

    def client_mask(self, offered: Tensor, held: Tensor | None, context: ClientContext) -> Tensor:
        return self.support

    def deployed_mask(self, offered: Tensor, held: Tensor | None, context: ClientContext) -> Tensor:
        return offered

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        kept = self.largest(client.layout, client.weights, self.kept[context.tier])
        client.move_mask_(kept, kept)
        return {}

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        server.mask = self.largest(server.layout, server.weights, total_count(server.layout.sizes, server.density))

    def largest(self, layout: Layout, weights: Tensor, count: int) -> Tensor:
        """The ``count`` weights of largest magnitude over all layers, bool ``[layout.maskable]``."""
        return top_k(weights[: layout.maskable].abs(), count)
