"""FIARSE: every device trains the largest weights of a dense server model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.server import ClientUpdate, FedAvg, MaskedAverage, ServerState
from flash_pl.sparsity import top_k_by_cost


class FIARSE(SparseScheduler):
    """Model-heterogeneous learning with importance-aware sub-models.

    Source: Wu et al., FIARSE, NeurIPS 2024; the authors' code was read. The server's model is dense and never pruned. A
    device of density d gets its d n weights of largest magnitude over all layers, chosen anew in every round. The
    server averages every weight over the devices that have it in their mask, all with the same weight, and keeps its
    own value if no device has it. Values and mask go down, values go up.

    Unlike there: biases and parameters of norms are ranked and masked with ``include=["*.weight", "*.bias"]`` only,
    by default every device trains them all (they are some 0.1 % of a ResNet-18); a weight that falls below the
    threshold while a client trains stays active until the round ends; a weight is averaged over the devices with it in
    their mask, there over those that changed it; layers that the model excludes stay dense.

    Args:
        importance: multiply gradients by 1 + 2 t |w| / (|w| + t)^2, where the threshold t is the smallest magnitude
            that the client got (the paper's biased gradient; in the authors' code, as read, it has no effect).

    >>> from flash_pl import FederatedTrainer
    >>> trainer = FederatedTrainer(FIARSE(importance=True), density=0.2, rounds=5, cohort=10)
    """

    def __init__(self, importance: bool = False) -> None:
        super().__init__()
        self.importance = importance

    def start(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> None:
        server.mask = self.largest(server, 1.0)

    def aggregator(self, tiers: int) -> FedAvg:
        return MaskedAverage(by_samples=False)

    def tier_masks(self, server: ServerState, ratios: Sequence[float]) -> list[Tensor]:
        return [self.largest(server, ratio) for ratio in ratios]

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        self.threshold = client.weights[client.mask].abs().min() if self.importance else None

    def on_gradients(self, client: ClientState, step: int) -> None:
        if self.threshold is not None:
            magnitude, t = client.weights.abs(), self.threshold
            client.scale_gradients_(1 + 2 * t * magnitude / (magnitude + t).square().clamp(min=1e-12))

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        server.mask = self.largest(server, 1.0)

    def largest(self, server: ServerState, ratio: float) -> Tensor:
        """The largest weights, for a device of ``ratio`` times the server's density, bool ``[layout.maskable]``."""
        layout = server.layout
        magnitude = server.weights[: layout.maskable].abs()
        return top_k_by_cost(layout, magnitude, layout.whole(ratio * layout.budget(server.density)))
