"""SparsyFed: weights that are small become smaller."""

from contextlib import AbstractContextManager

from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.errors import ConfigError
from flash_pl.schedulers.activations import pruned_activations
from flash_pl.schedulers.magnitude_upload import MagnitudeUpload


class SparsyFed(MagnitudeUpload):
    """Clients train v with w = sign(v) |v|^beta, prune the inputs that layers save, and send their largest weights.

    Source: Guastella et al., SparsyFed, ICLR 2025 (arXiv 2504.05153), read in a fork of the authors' code. The
    gradient of v is that of w times beta |v|^(beta - 1), so a weight that arrives as 0 stays 0, and new ones come by
    the union of the last cohort's supports only. The input that a layer keeps for the gradient of its weight is
    pruned to the density of that weight; the first round is dense. Up go the values and the mask of d n weights.

    Other than there: the server averages w, not v, so that what it holds is the network itself; thresholds of saved
    inputs are taken anew for every batch, not once a round; layers that the model excludes stay dense.

    Args:
        beta: at least 1; 1 trains w itself.
        activations: prune saved inputs.
    """

    def __init__(self, beta: float = 1.25, activations: bool = True) -> None:
        super().__init__()
        if not beta >= 1:
            raise ConfigError("beta", beta, "a number of at least 1")
        self.beta, self.activations = beta, activations

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        client.weights.copy_(power(client.weights, 1 / self.beta))

    def training(self, client: ClientState) -> AbstractContextManager[object]:
        return pruned_activations(client, client.densities) if self.activations else super().training(client)

    def forward_weights(self, client: ClientState) -> Tensor | None:
        return power(client.weights, self.beta)

    def wants_dense_gradients(self, client: ClientState, step: int) -> bool:
        return False  # those of pruned weights would be multiplied by 0

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        client.scale_gradients_(self.beta * client.weights.abs() ** (self.beta - 1))

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        client.weights.copy_(power(client.weights, self.beta))
        return super().on_client_end(client, context)


def power(values: Tensor, exponent: float) -> Tensor:
    """sign(v) |v|^exponent."""
    return values.sign() * values.abs() ** exponent
