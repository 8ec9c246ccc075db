"""HeteroFL: small devices train narrow networks inside the wide one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import torch
from torch import Tensor, nn

from flash_pl.client import ClientState
from flash_pl.errors import ConfigError
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.server import ClientUpdate, FedAvg, MaskedAverage, ServerState
from flash_pl.sparsity import FirstMask, channel_mask, feeds_another, largest_channel_ratio, layers_of


class HeteroFL(SparseScheduler):
    """A device trains the first channels of every layer, as many as its density allows.

    Source: Diao et al., HeteroFL, ICLR 2021; the authors' code was read. A device of channel ratio r has the first
    ceil(r C) channels of every layer, a density of about r^2; with one tier this is a narrow dense network. The server
    averages every weight over the devices that have it, all with the same weight, and keeps its own value if no device
    has it. While a client trains, outputs of narrowed layers are divided by r over the server's ratio (the scaler).
    Values go both ways; a ratio tells which weights a device has. A density is met from below, in whole channels.

    Initial weights are scaled by density, as for most schedulers here. ``first_mask.initialize=fan_in_preserving``
    starts as a narrow network would; it trained worse at d = 0.05 and 0.02 (Fashion-MNIST, MNISTNet), and at d = 0.05
    with one of two partitions it did not train at all.

    Unlike there: the scaler follows every narrowed layer, convolutions of shortcuts included, because every model here
    has layers and few have pre-activation blocks; there it stands before the batch norms of such blocks, and shortcuts
    have none. Batch norms and biases of the channels that a device lacks are trained and sent too; the statistics of
    batch norms are the clients' mean, there the server's pass over training data; logits of classes that a client lacks
    are not masked.

    Raises:
        ConfigError: (at the start of a run) a tier affords fewer weights than the network of one channel per layer has.

    >>> from flash_pl import FederatedTrainer
    >>> from flash_pl.sparsity import SparsityBudget, Tier
    >>> budget = SparsityBudget([Tier(0.25, share=0.5), Tier(1.0, share=0.5)])  # half and all of the channels
    >>> trainer = FederatedTrainer(HeteroFL(), density=1.0, budget=budget, rounds=5, cohort=10)
    """

    def __init__(self, first_mask: FirstMask | None = None) -> None:
        super().__init__(first_mask)
        self.ratios: list[Fraction] = []  # of channels, one per tier

    def start(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> None:
        server.mask = self._mask(server, server.density)
        self.first_mask.initialize(server.layout, server.weights, server.mask)
        server.prune_()

    def aggregator(self, tiers: int) -> FedAvg:
        return MaskedAverage(by_samples=False)

    def tier_masks(self, server: ServerState, ratios: Sequence[float]) -> list[Tensor]:
        self.ratios = [largest_channel_ratio(server.layout, ratio * server.density) for ratio in ratios]
        return [self._mask(server, ratio * server.density) for ratio in ratios]

    @contextmanager
    def training(self, client: ClientState) -> Iterator[None]:
        scale = float(self.ratios[-1]) / float(self.ratios[client.context.tier])

        def scaler(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
            return output * scale

        narrow = [slot for slot in client.layout.layers if feeds_another(client.layout, slot)] if scale != 1 else []
        scaled = layers_of(client.module, [slot.name for slot in narrow]).values()
        handles = [layer.register_forward_hook(scaler) for layers in scaled for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        server.prune_()

    def _mask(self, server: ServerState, density: float) -> Tensor:
        layout = server.layout
        mask = channel_mask(layout, largest_channel_ratio(layout, density))
        narrowest, afforded = layout.cost(mask), layout.budget(density)
        if narrowest > afforded:
            unit = "multiply-adds" if layout.costs.is_floating_point() else "weights"
            narrow = f"HeteroFL's narrowest network of this model has {narrowest:.0f}"
            problem = f"a tier affords {afforded:.0f} {unit}, {narrow}"
            raise ConfigError("density", problem, "use a larger density, or a scheduler that prunes single weights")
        return mask.to(server.weights.device)
