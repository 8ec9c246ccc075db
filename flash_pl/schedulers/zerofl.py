"""ZeroFL: sparse computation of a dense model, uploads a little denser."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.errors import ConfigError
from flash_pl.schedulers.activations import pruned_activations
from flash_pl.schedulers.magnitude_upload import MagnitudeUpload
from flash_pl.sparsity import Layout, Uniform, allot, top_k_by_layer


class ZeroFL(MagnitudeUpload):
    """Steps compute with the largest weights and the largest saved inputs, but train all weights.

    Source: Qiu et al., ZeroFL, ICLR 2022, variant Top-K-Weights; written from the paper's text, no code of the
    authors was found. In every layer the forward pass and the gradient of the input use the d share of weights of
    largest magnitude, the gradient of the weight the d share of the layer's input; it is dense, and all weights take
    the step (as in SWAT, Raihan and Aamodt, NeurIPS 2020). Up go the values and the mask of the largest weights of
    each layer, at density d + r; down the union of the last cohort's. Inference, too, uses the largest weights: the
    server is evaluated at d.

    Not verified: whether the upload is ranked by layer, as here, and the optimiser's momentum and weight decay.

    Args:
        ratio: r, what an upload is denser than d.
    """

    def __init__(self, ratio: float = 0.2) -> None:
        super().__init__()
        if not 0 <= ratio <= 1:
            raise ConfigError("ratio", ratio, "a number in [0, 1]")
        self.ratio = ratio

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        client.move_mask_(torch.ones_like(client.mask), survivors=client.mask)

    def training(self, client: ClientState) -> AbstractContextManager[object]:
        return pruned_activations(client, self.trained_densities(client))

    def trained_densities(self, client: ClientState) -> Tensor:
        return Uniform()(client.layout, self.kept[client.context.tier] / client.layout.maskable)

    def forward_weights(self, client: ClientState) -> Tensor | None:
        return client.weights * self.largest(client.layout, client.weights, self.kept[client.context.tier])

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        maskable = client.layout.maskable
        count = min(maskable, self.kept[context.tier] + round(self.ratio * maskable))
        sent = self.largest(client.layout, client.weights, count)
        client.move_mask_(sent, sent)
        return {}

    def largest(self, layout: Layout, weights: Tensor, count: int) -> Tensor:
        """The same share of each layer."""
        counts = allot(Uniform()(layout, count / layout.maskable) * layout.sizes, layout.sizes, count)
        return top_k_by_layer(layout, weights.abs(), counts)
