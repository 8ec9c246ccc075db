"""Which normalization follows a convolution."""

import math
from collections.abc import Callable
from typing import Literal

from torch import nn

from flash_pl.checks import check_choice

Init = Literal["lecun", "he", "torch"]

_VARIANCE = {"lecun": 1.0, "he": 2.0}  # times fan-in


def initialize(init: Init, *hidden: nn.Conv2d | nn.Linear) -> None:
    """Initialize the ``hidden`` layers, those that a ReLU follows.

    ``"lecun"`` draws weights from a normal distribution of variance 1 / fan-in (LeCun et al., Efficient BackProp, 1998,
    section 4.6) and ``"he"`` of 2 / fan-in (He et al., ICCV 2015, eq. 10); biases become 0. ``"torch"`` leaves
    PyTorch's own draw of variance 1 / (3 fan-in), under which activations shrink from layer to layer where nothing
    normalizes them, and training starts slowly. ``"he"`` starts fastest and needs the smallest learning rate.

    Raises:
        ConfigError: ``init`` is none of them.
    """
    check_choice(*_VARIANCE, "torch", init=init)
    if init == "torch":
        return
    for layer in hidden:
        nn.init.normal_(layer.weight, std=(_VARIANCE[init] / layer.weight[0].numel()) ** 0.5)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


Norm = Literal["batch", "group"]


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups, or of as many as divide both 32 and ``channels``: min(32, C) for powers of two."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


_FACTORIES: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm}


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """The normalization of ``[B, channels, H, W]``.

    ``"batch"`` keeps running statistics, which clients with different classes disagree on; ``"group"`` (Hsieh et al.,
    The Non-IID Data Quagmire, ICML 2020) has no statistics and hence nothing for the server to average.

    Raises:
        ConfigError: ``norm`` is neither of them.

    >>> norm_layer("group", 64).num_groups
    32
    """
    check_choice(*_FACTORIES, norm=norm)
    return _FACTORIES[norm](channels)
