"""Why a network cannot take a batch: the layer or the loss at which shapes do not fit, with both shapes."""

from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

Locals = Mapping[str, Any]
# Norms with a number of channels.
CHANNEL_NORMS = nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm


def misfit(error: BaseException) -> str:
    """Return in one clause which layer, or which loss, got a shape that it cannot take; empty if none did.

    The frames of the traceback are read: a layer is named as in the outermost module, and nothing is computed again.

    >>> try:
    ...     nn.Sequential(nn.Flatten(), nn.Linear(5, 2))(torch.zeros(3, 1, 8, 8))
    ... except RuntimeError as error:
    ...     misfit(error)
    'the network does not fit the data: 1 (Linear) takes 5 features, and gets 64 in an input of shape [3, 64] from a \
batch of shape [3, 1, 8, 8]'
    """
    frames = list(_frames(error))
    modules = [frame for frame in frames if isinstance(frame.get("self"), nn.Module)]
    for frame in reversed(modules):
        if problem := _layer_problem(frame["self"], _input(frame)):
            name = _name(frame["self"], modules[0]["self"])
            return f"the network does not fit the data: {name} takes {problem}{_of_batch(modules, frame)}"
    for frame in reversed(frames):
        if problem := _label_problem(frame.get("input"), frame.get("target")):
            return f"the network does not fit the data: {problem}"
    return ""


def _frames(error: BaseException) -> Iterator[Locals]:
    """The local variables of the functions in which an error was raised, the outermost first."""
    traceback = error.__traceback__
    while traceback is not None:
        frame: FrameType = traceback.tb_frame
        yield frame.f_locals
        traceback = traceback.tb_next


def _input(frame: Locals) -> Tensor | None:
    """The tensor that a layer was called with."""
    values = [frame.get(name) for name in ("input", "x", "args")]
    values = [value[0] if isinstance(value, tuple) and value else value for value in values]
    return next((value for value in values if isinstance(value, Tensor)), None)


def _layer_problem(layer: nn.Module, given: Tensor | None) -> str:
    """What a layer takes and what it gets instead; empty if the input has the right number of features."""
    if given is None:
        return ""
    shape = f"in an input of shape {[*given.shape]}"
    if isinstance(layer, nn.Linear):
        features = given.shape[-1] if given.ndim else 0
        return f"{layer.in_features} features, and gets {features} {shape}" if features != layer.in_features else ""
    if isinstance(layer, nn.modules.conv._ConvNd):
        wanted, dimensions = layer.in_channels, len(layer.kernel_size) + 2
    elif isinstance(layer, CHANNEL_NORMS):
        wanted, dimensions = layer.num_features, given.ndim
    elif isinstance(layer, nn.Embedding):
        whole = not given.is_floating_point() and given.numel() > 0
        largest = int(given.max()) if whole else 0
        return f"indices below {layer.num_embeddings}, and gets {largest}" if largest >= layer.num_embeddings else ""
    else:
        return ""
    if given.ndim not in (dimensions, dimensions - 1):
        return f"inputs of {dimensions} dimensions, and gets one of shape {[*given.shape]}"
    channels = given.shape[1] if given.ndim == dimensions else given.shape[0]
    return f"{wanted} channels, and gets {channels} {shape}" if channels != wanted else ""


def _label_problem(outputs: object, labels: object) -> str:
    """How the labels of a classification do not fit the outputs of the network; empty if they do."""
    if not (isinstance(outputs, Tensor) and isinstance(labels, Tensor) and outputs.ndim > 1 and labels.numel()):
        return ""
    if outputs.shape[:1] != labels.shape[:1]:
        return f"it makes {len(outputs)} predictions for {len(labels)} labels, outputs of shape {[*outputs.shape]}"
    if labels.is_floating_point() or labels.dtype == torch.bool:
        return ""
    classes, largest = outputs.shape[1], int(labels.max())
    return f"it has {classes} outputs, and a batch has the label {largest}" if largest >= classes else ""


def _name(layer: nn.Module, root: nn.Module) -> str:
    names = (name for name, module in root.named_modules() if module is layer)
    kind = type(layer).__name__
    return f"{name} ({kind})" if (name := next(names, "")) else kind


def _of_batch(modules: list[Locals], frame: Locals) -> str:
    """The shape of the batch with which the network was called, if it is not the input of the layer itself."""
    outer = next((_input(outer) for outer in modules if not isinstance(outer["self"], L.LightningModule)), None)
    inner = _input(frame)
    if outer is None or inner is None or outer.shape == inner.shape:
        return ""
    return f" from a batch of shape {[*outer.shape]}"
