"""A fixed first mask chosen by how much the inputs of each layer vary. Clients measure it before the first round."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from candidates.fixed import Largest
from flash_pl.client import ClientContext, ClientState
from flash_pl.schedulers import Dense, FirstStage
from flash_pl.server import ClientUpdate, ServerState
from flash_pl.sparsity import FirstMask, Layout, top_k_by_layer
from flash_pl.sparsity.first_mask import layer_counts


class ActivityTrainee(Dense):
    """Measures the variances of the layers' inputs on a client's first batch, with the server's dense weights."""

    centered = True

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        self.variances: dict[str, Tensor] = {}

    @contextmanager
    def training(self, client: ClientState) -> Iterator[None]:
        def recorder(name: str):
            def hook(layer: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
                if name not in self.variances:
                    features = inputs[0].detach().double().movedim(1, 0).flatten(1)
                    mean = features.mean(1, keepdim=True) if self.centered else 0.0
                    self.variances[name] = (features - mean).square().mean(1)

            return hook

        layers = [
            (slot.name, client.module.get_submodule(slot.name.rpartition(".")[0])) for slot in client.layout.layers
        ]
        handles = [layer.register_forward_pre_hook(recorder(name)) for name, layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        return {"activity": torch.cat([self.variances[slot.name] for slot in client.layout.layers]) * 4096}


class RawActivityTrainee(ActivityTrainee):
    """Measures second moments instead of variances."""

    centered = False


@dataclass(frozen=True)
class ActivityStage(FirstStage):
    """A first stage in which clients report the variances of the layers' inputs, one number per input."""

    batches: int | None = 1
    centered: bool = True

    def trainee(self, first_mask: FirstMask) -> ActivityTrainee:
        return ActivityTrainee(first_mask) if self.centered else RawActivityTrainee(first_mask)

    def size(self, layout: Layout) -> int:
        return sum(slot.shape[1] for slot in layout.layers)

    def measurement(self, update: ClientUpdate) -> Tensor:
        return update.extra["activity"]


class Active(Largest):
    """``Largest``, but ranks weights by |w_ij| s_j^power; s_j is the standard deviation of input j at the start."""

    def __init__(self, power: float = 1.0, centered: bool = True, sizes: float = 1.0, rates: float = 0.25) -> None:
        super().__init__(rates, sizes)
        self.power, self.first_stage = power, ActivityStage(centered=centered)

    def start(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> None:
        layout, scores, start = server.layout, torch.zeros(server.layout.maskable, dtype=torch.float64), 0
        densities = self.first_mask.distribution(layout, server.density)
        for slot in layout.layers:
            inputs = slot.shape[1]
            spread = measured[start : start + inputs].sqrt() ** self.power
            start += inputs
            spread = spread.view(1, inputs, *[1] * (len(slot.shape) - 2))
            slot.view(scores).copy_(slot.view(server.weights).abs() * spread)
        server.mask = top_k_by_layer(layout, scores, layer_counts(layout, densities))
        server.prune_()
