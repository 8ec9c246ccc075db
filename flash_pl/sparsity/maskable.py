"""Which parameters of a module can be masked: the weights of its layers, and what the user adds or leaves out."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.rnn import RNNCellBase
from torch.nn.utils import parametrize

from flash_pl.errors import ConfigError, as_yaml

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Kinds of layers, and the names of their weight matrices as a regular expression.
WEIGHTS = (
    ((nn.Linear, *CONVOLUTIONS, *TRANSPOSED), "weight"),
    ((nn.MultiheadAttention,), "(in|q|k|v)_proj_weight"),
    ((nn.RNNBase, RNNCellBase), r"weight_(ih|hh|hr)(_l\d+)?(_reverse)?"),
)
# torch.nn.utils.weight_norm keeps the direction of a weight in weight_v; spectral_norm and prune keep weight_orig.
LEGACY_SUFFIXES = ("_v", "_orig")


def maskable_names(
    module: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = (), exclude_first_last: bool = False
) -> list[str]:
    """Return the names of the parameters that a mask may prune, in the order of the module's layers.

    These are the trainable weight matrices of linear layers, convolutions, transposed convolutions, attention and
    recurrent layers. Where torch computes such a weight from other parameters (``weight_norm``, ``spectral_norm``,
    ``prune``, any parametrization that is 0 exactly where its parameter is 0), the mask acts on that parameter.

    Args:
        module: the model.
        include: names or glob patterns of more layers, whose parameters of two and more dimensions are masked too. A
            pattern that matches no layer is one of parameters, of any shape.
        exclude: names or glob patterns of layers or parameters that are not masked.
        exclude_first_last: whether the first and the last of these layers are not masked either.

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left to mask.

    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.LSTM(4, 3), nn.Linear(3, 2))
    >>> maskable_names(model, exclude=["1.weight_hh_l0"])
    ['1.weight_ih_l0', '2.weight']
    >>> maskable_names(model, include=["0"], exclude=["1"])
    ['0.weight', '2.weight']
    """
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    layers = {name: weights for name, weights in _layers(module, include, trained) if weights}
    known = [*layers, *(weight for weights in layers.values() for weight in weights)]
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in known):
            hint = f"use a name or a glob pattern of {', '.join(layers)}, or of a weight of these layers"
            raise ConfigError("exclude", f"{as_yaml(pattern)} matches no maskable layer", hint)
    chosen = list(layers)[1:-1] if exclude_first_last else list(layers)
    # A weight that several layers share is one parameter, which has the name that it has in the first of them. A frozen
    # weight is not trained and therefore never masked.
    first_name = {id(parameter): name for name, parameter in module.named_parameters()}
    names, excluded = dict[str, None](), set[str]()
    for layer, weights in layers.items():
        for weight in weights:
            name = first_name[id(module.get_parameter(weight))]
            if layer not in chosen or any(fnmatchcase(layer, p) or fnmatchcase(weight, p) for p in exclude):
                excluded.add(name)
            elif name in trained:
                names[name] = None
    names = {name: None for name in names if name not in excluded}
    if not names:
        if not exclude and not exclude_first_last:
            problem = "[] leaves nothing to mask in a module without a trainable weight that is masked by default"
            raise ConfigError("include", problem, "name layers or parameters")
        key, value = ("exclude", list(exclude)) if exclude else ("exclude_first_last", exclude_first_last)
        hint = "at least one trainable layer must be left, such as a Linear or Conv layer; include adds other weights"
        raise ConfigError(key, f"{as_yaml(value)} leaves no layer to mask", hint)
    return list(names)


def _layers(module: nn.Module, include: Sequence[str], trained: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Every layer by name, with the full names of the parameters that may be masked in it, frozen ones included."""
    unused, names = set(include), [name for name, _ in module.named_modules()]
    of_layers = {pattern for pattern in include if any(fnmatchcase(name, pattern) for name in names if name)}
    for layer_name, layer in module.named_modules():
        if isinstance(layer, parametrize.ParametrizationList):
            continue  # the layer that it computes has its parameters
        prefix = f"{layer_name}." if layer_name else ""
        kinds = [pattern for types, pattern in WEIGHTS if isinstance(layer, types)]
        weights = []
        for tensor, parameter in _tensors(layer).items():
            name = prefix + parameter
            asked = {p for p in include if fnmatchcase(layer_name if p in of_layers else name, p)}
            if asked - of_layers or (asked and layer.get_parameter(parameter).ndim > 1):
                if layer.get_parameter(parameter).requires_grad:
                    unused -= asked
                weights.append(name)
            elif any(re.fullmatch(pattern, tensor) for pattern in kinds):
                weights.append(name)
        yield layer_name, weights
    if unused:
        problem = f"{as_yaml(min(unused))} matches no trainable weight"
        raise ConfigError("include", problem, f"use a name or a glob pattern of {', '.join(sorted(trained))}")


def _tensors(layer: nn.Module) -> dict[str, str]:
    """Name of each tensor of a layer -> name, relative to the layer, of the parameter in which a mask prunes it."""
    own = [name for name, _ in layer.named_parameters(recurse=False)]
    tensors = {name: name for name in own}
    for name in own:
        for suffix in LEGACY_SUFFIXES:
            computed = name.removesuffix(suffix)
            if computed != name and computed not in own and hasattr(layer, computed):
                tensors[computed] = tensors.pop(name)
                tensors.pop(f"{computed}_g", None)  # the norms of weight_norm
    if parametrize.is_parametrized(layer):
        for tensor, steps in layer.parametrizations.items():  # type: ignore[union-attr, operator]
            *_, (name, _) = steps.named_parameters(recurse=False)  # the last one: weight_norm has its norms before
            if _keeps_zeros(steps, name):
                tensors[tensor] = f"parametrizations.{tensor}.{name}"
    return tensors


@torch.no_grad()
def _keeps_zeros(steps: nn.Module, name: str) -> bool:
    """Try whether a parametrization computes 0 where one of its parameters is 0, and nowhere else."""
    original = steps.get_parameter(name)
    values, modes = original.clone(), [(part, part.training) for part in steps.modules()]
    trial = torch.ones_like(original)
    trial[(-1,) * trial.ndim] = 0  # the last element alone, so that the norm of no row is 0, unless it has one element
    try:
        steps.eval()  # spectral_norm changes its buffers in training mode
        original.copy_(trial)
        result = steps()
        return result.shape == trial.shape and bool(((result == 0) == (trial == 0)).all())
    finally:
        original.copy_(values)
        for part, training in modes:
            part.training = training


def own_weight(layer: nn.Module) -> nn.Parameter | None:
    """Return the parameter ``weight`` of a layer; None if it has none or computes it from other parameters.

    >>> own_weight(nn.ReLU()), own_weight(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    (None, None)
    """
    return dict(layer.named_parameters(recurse=False)).get("weight")
