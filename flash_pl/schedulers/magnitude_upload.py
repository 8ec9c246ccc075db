"""Schedulers whose clients get the server's whole model and upload its largest weights: Top-K, ZeroFL, SparsyFed."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from flash_pl.checks import check_numbers
from flash_pl.client import ClientContext, ClientState
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.server import ClientUpdate, FedAvg, ServerState, ZeroingMaskedAverage
from flash_pl.sparsity import Layout, Uniform, allot, kth_largest, layers_of, top_k_by_cost, top_k_by_layer

MIN_SAVED = 0.01  # the least share of a saved input that SparsyFed keeps


class MagnitudeUpload(SparseScheduler):
    """Clients get the server's whole model and send back their weights of largest magnitude.

    The first model is dense. Later models have the union of the last cohort's masks, which is what goes down. The
    server's mask only says which weights a device of density d would get.

    Attributes:
        support: the nonzero weights of the server's model, bool ``[layout.maskable]``.
        upload_costs: what the upload of each tier may cost (``layout.cost``): its number of weights, or multiply-adds.
    """

    support: Tensor
    upload_costs: list[float]

    def __init__(self) -> None:
        super().__init__()

    def start(self, server: ServerState, measured: Tensor | None, generator: torch.Generator) -> None:
        server.mask = self.largest(server.layout, server.weights, server.layout.budget(server.density))

    def aggregator(self, tiers: int) -> FedAvg:
        """A weight that no client sent becomes 0, with tiers too: the union of the uploads goes down."""
        return ZeroingMaskedAverage() if tiers > 1 else FedAvg()

    def tier_masks(self, server: ServerState, ratios: Sequence[float]) -> list[Tensor]:
        masks = super().tier_masks(server, ratios)
        self.support = server.weights[: server.layout.maskable] != 0
        self.upload_costs = [server.layout.cost(mask) for mask in masks]
        return masks

    def client_mask(self, tier_mask: Tensor, previous_mask: Tensor | None, context: ClientContext) -> Tensor:
        return self.support

    def deployed_mask(self, tier_mask: Tensor, previous_mask: Tensor | None, context: ClientContext) -> Tensor:
        return tier_mask

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        upload = self.largest(client.layout, client.weights, self.upload_costs[context.tier])
        client.move_mask_(upload, upload)
        return {}

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        server.mask = self.largest(server.layout, server.weights, server.layout.budget(server.density))

    def largest(self, layout: Layout, weights: Tensor, cost: float) -> Tensor:
        """The weights of largest magnitude over all layers that cost ``cost``, bool ``[layout.maskable]``."""
        return top_k_by_cost(layout, weights[: layout.maskable].abs(), cost)


class TopK(MagnitudeUpload):
    """Clients train all weights and send those of largest magnitude (a baseline of SparsyFed, ICLR 2025).

    Weights that arrive as 0 train too. d n weights and their mask go up, the union of the last cohort's masks goes
    down. Training is dense and its FLOPs are counted as dense.

    Read in a fork of the SparsyFed authors' code, which also ranks the first and the last layer. Here the layers that
    the model excludes stay dense.

    >>> from flash_pl import FederatedTrainer
    >>> trainer = FederatedTrainer(TopK(), density=0.05, rounds=5, cohort=10)
    """

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        client.move_mask_(torch.ones_like(client.mask), survivors=client.mask)


class ZeroFL(MagnitudeUpload):
    """Steps compute with the largest weights and the largest saved inputs, but train all weights.

    Source: Qiu et al., ZeroFL, ICLR 2022, variant Top-K-Weights; written from the paper's text, since no code of the
    authors was found. In every layer the forward pass and the gradient of the input use the d share of weights of
    largest magnitude; the gradient of the weight uses the d share of the layer's input of largest magnitude. That
    gradient is dense, and all weights take the step (as in SWAT, Raihan and Aamodt, NeurIPS 2020). Values and mask of
    the largest weights of each layer go up, at density d + r; the union of the last cohort's masks goes down. Inference
    uses the largest weights too: the server is evaluated at d.

    Not verified: whether the upload is ranked by layer, as here, and the optimizer's momentum and weight decay.

    Args:
        ratio: r, by how much an upload is denser than d.

    >>> from flash_pl import FederatedTrainer
    >>> trainer = FederatedTrainer(ZeroFL(ratio=0.1), density=0.05, rounds=5, cohort=10)
    """

    def __init__(self, ratio: float = 0.2) -> None:
        super().__init__()
        check_numbers("[0, 1]", ratio=ratio)
        self.ratio = ratio

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        client.move_mask_(torch.ones_like(client.mask), survivors=client.mask)

    def training(self, client: ClientState) -> AbstractContextManager[object]:
        return pruned_activations(client, self.trained_densities(client))

    def trained_densities(self, client: ClientState) -> Tensor:
        costs = client.layout.costs
        return Uniform()(client.layout, self.upload_costs[client.context.tier] / float(costs.sum()))

    def forward_weights(self, client: ClientState) -> Tensor | None:
        return client.weights * self.largest(client.layout, client.weights, self.upload_costs[client.context.tier])

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        layout = client.layout
        cost = min(layout.budget(1.0), self.upload_costs[context.tier] + layout.budget(self.ratio))
        upload = self.largest(layout, client.weights, cost)
        client.move_mask_(upload, upload)
        return {}

    def largest(self, layout: Layout, weights: Tensor, cost: float) -> Tensor:
        """The same share of each layer, those of largest magnitude; together they cost ``cost``."""
        ideal = Uniform()(layout, cost / float(layout.costs.sum())) * layout.sizes
        return top_k_by_layer(layout, weights.abs(), allot(ideal, layout.sizes, cost, prices=layout.prices))


class SparsyFed(MagnitudeUpload):
    """Clients train v with w = sign(v) |v|^beta, prune the inputs that layers save, and send their largest weights.

    Source: Guastella et al., SparsyFed, ICLR 2025 (arXiv 2504.05153), read in a fork of the authors' code. The gradient
    of v is that of w times beta |v|^(beta - 1), so a weight that arrives as 0 stays 0, and new weights come only from
    the union of the last cohort's masks. The input that a layer saves for the gradient of its weight is pruned to the
    density of that weight, but to no less than 1 % (as in that fork); the first round is dense. Values and mask of d n
    weights go up.

    Unlike there: the server averages w and not v, so that it holds the network itself; thresholds of saved inputs are
    taken anew for every batch and not once a round; layers that the model excludes stay dense.

    Args:
        beta: at least 1; 1 trains w itself.
        activations: prune saved inputs.

    >>> from flash_pl import FederatedTrainer
    >>> trainer = FederatedTrainer(SparsyFed(beta=1.5), density=0.05, rounds=5, cohort=10)
    """

    def __init__(self, beta: float = 1.25, activations: bool = True) -> None:
        super().__init__()
        check_numbers("[1, inf)", beta=beta)
        self.beta, self.activations = beta, activations

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        client.weights.copy_(signed_power(client.weights, 1 / self.beta))

    def training(self, client: ClientState) -> AbstractContextManager[object]:
        if not self.activations:
            return super().training(client)
        return pruned_activations(client, client.densities.clamp(min=MIN_SAVED))

    def forward_weights(self, client: ClientState) -> Tensor | None:
        return signed_power(client.weights, self.beta)

    def on_gradients(self, client: ClientState, step: int) -> None:
        client.scale_gradients_(self.beta * client.weights.abs() ** (self.beta - 1))

    def on_client_end(self, client: ClientState, context: ClientContext) -> dict[str, Tensor]:
        client.weights.copy_(signed_power(client.weights, self.beta))
        return super().on_client_end(client, context)


def signed_power(values: Tensor, exponent: float) -> Tensor:
    """sign(v) |v|^exponent."""
    return values.sign() * values.abs() ** exponent


@contextmanager
def pruned_activations(client: ClientState, densities: Tensor) -> Iterator[None]:
    """A context in which layer l computes the gradient of its weight from the ``densities[l]`` share of its input that
    is largest in magnitude over the whole batch; forward passes and other gradients stay exact.

    Args:
        client: whose maskable layers are meant.
        densities: float64 ``[layers]``; a layer of density 1 stays as it is.
    """
    handles, layers = [], layers_of(client.module, [slot.name for slot in client.layout.layers])
    for slot, density in zip(client.layout.layers, densities.tolist(), strict=True):
        for layer in layers[slot.name] if density < 1 else ():
            pruning = _InputPruning(density)
            handles.append(layer.register_forward_pre_hook(pruning.enter))
            handles.append(layer.register_forward_hook(pruning.leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _InputPruning:
    """The hooks around one layer's forward pass."""

    def __init__(self, density: float) -> None:
        self.density = density

    def enter(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.elements, self.dimensions = elements_with_padding(layer, inputs[0]), inputs[0].ndim
        self.weight: Any = layer.weight
        self.saving = saved_tensors_hooks(self.pack, lambda saved: saved)
        self.saving.__enter__()

    def leave(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.saving.__exit__()

    def pack(self, saved: Tensor) -> Tensor:
        """What autograd keeps of a tensor that the layer saves; the input may come in another shape or as a copy."""
        return keep_largest(saved, self.density) if self.is_input(saved) else saved

    def is_input(self, saved: Tensor) -> bool:
        """Whether a saved tensor is the layer's input; the weight may have as many elements, even in another dtype."""
        if saved.numel() != self.elements or saved.ndim < min(2, self.dimensions):  # sparse kernels save 1-d weights
            return False
        weight = self.weight.detach()
        if saved.numel() != weight.numel():
            return True
        views = [saved, saved.mT] if saved.ndim == 2 else [saved]
        return not any(view.shape == weight.shape and view.equal(weight.to(view.dtype)) for view in views)


def elements_with_padding(layer: nn.Module, x: Tensor) -> int:
    """Number of elements of a layer's input as its kernel sees it.

    Before a convolution's kernel runs, torch adds padding of every other kind than zeros; of zeros it adds the
    difference of both sides, which ``padding="same"`` may ask for.
    """
    sides = getattr(layer, "_reversed_padding_repeated_twice", ())  # of the last dimension first: before, behind, ...
    shape = list(x.shape)
    for back, (before, behind) in enumerate(zip(sides[::2], sides[1::2], strict=True), 1):
        shape[-back] += before + behind if layer.padding_mode != "zeros" else abs(behind - before)
    return prod(shape)


def keep_largest(values: Tensor, density: float) -> Tensor:
    """The share ``density`` of ``values`` that is largest in magnitude, at least one value, and 0 elsewhere.

    Values equal to the smallest kept one are all kept.

    >>> keep_largest(torch.tensor([0.1, -0.4, 0.3, 0.2]), 0.5)
    tensor([ 0.0000, -0.4000,  0.3000,  0.0000])
    """
    magnitude = values.detach().abs()
    threshold = kth_largest(magnitude.reshape(-1), max(1, int(density * magnitude.numel())))
    return torch.where(magnitude >= threshold, values, 0.0)
