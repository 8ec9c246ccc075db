"""Which layers the loss does not see the scale of, such as those that a normalization follows."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flash_pl.sparsity.layout import Layout

# In shares of the norms. Rounding and the eps of a normalization stay far below; other layers are rarely this near.
ORTHOGONAL, HALVED = 0.03, 0.1


def scale_invariant_layers(layout: Layout, weights: Tensor, gradients: Callable[[Tensor], Tensor]) -> tuple[bool, ...]:
    """Return of each maskable layer whether the loss stays the same when all its weights are multiplied by c > 0.

    Such a layer has two properties (van Laarhoven, arXiv 1706.05350): its gradient g(w) is orthogonal to w, and
    g(c w) = g(w) / c. The first one costs nothing to look at and names the candidates. Then all candidates are doubled
    at once. If that halves the gradient of each, they are all invariant; if not, each half of them is tried alone. So
    two passes are enough as a rule, however many layers there are.

    Args:
        layout: of the module.
        weights: the arena ``[layout.size]``.
        gradients: returns the gradients ``[layout.maskable]`` of one loss at an arena, of the same samples with the
            same random numbers each time.

    >>> from torch import nn
    >>> network = nn.Sequential(nn.Linear(4, 8, bias=False), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    >>> layout, inputs = Layout(network), torch.randn(16, 4)
    >>> arena = layout.flatten_(network)
    >>> def gradients(weights):
    ...     arena.copy_(weights)
    ...     loss = nn.functional.cross_entropy(network(inputs), torch.arange(16) % 2)
    ...     layers = [network[0].weight, network[3].weight]
    ...     return torch.cat([part.flatten() for part in torch.autograd.grad(loss, layers)])
    >>> scale_invariant_layers(layout, arena.clone(), gradients)
    (True, False)
    """
    before = [*layout.split(gradients(weights))]

    def invariant(candidates: Sequence[int]) -> set[int]:
        doubled = weights.clone()
        for layer in candidates:
            layout.layers[layer].view(doubled).mul_(2)  # exact
        after = [*layout.split(gradients(doubled))]
        if all((2 * after[layer] - before[layer]).norm() <= HALVED * before[layer].norm() for layer in candidates):
            return {*candidates}
        middle = len(candidates) // 2
        return invariant(candidates[:middle]) | invariant(candidates[middle:]) if middle else set()

    candidates = [
        layer
        for layer, (part, gradient) in enumerate(zip(layout.split(weights), before, strict=True))
        if gradient.any() and torch.dot(part, gradient).abs() <= ORTHOGONAL * part.norm() * gradient.norm()
    ]
    found = invariant(candidates) if candidates else set()
    return tuple(layer in found for layer in range(len(layout.layers)))
