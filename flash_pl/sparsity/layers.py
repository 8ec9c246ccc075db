"""Which layers compute with a weight."""

from collections.abc import Iterable

from torch import nn


def layers_of(module: nn.Module, names: Iterable[str]) -> dict[str, list[nn.Module]]:
    """The layers of a module whose weight is the parameter of a name: several where they share it.

    >>> tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> tied[1].weight = tied[0].weight
    >>> len(layers_of(tied, ["0.weight"])["0.weight"])
    2
    """
    found: dict[str, list[nn.Module]] = {name: [] for name in names}
    by_weight = {id(module.get_parameter(name)): layers for name, layers in found.items()}
    for layer in module.modules():
        if (layers := by_weight.get(id(getattr(layer, "weight", None)))) is not None:
            layers.append(layer)
    return found
