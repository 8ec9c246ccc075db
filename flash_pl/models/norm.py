"""Which normalisation follows a convolution."""

import math
from collections.abc import Callable
from typing import Literal

from torch import nn

from flash_pl.errors import ConfigError

Norm = Literal["batch", "group"]


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups, or of as many as divide both 32 and ``channels``: min(32, C) for powers of two."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


_FACTORIES: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm}


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """The normalisation of ``[B, channels, H, W]``.

    ``"batch"`` keeps running statistics, which clients with different classes disagree on; ``"group"`` (Hsieh et al.,
    The Non-IID Data Quagmire, ICML 2020) has no statistics and hence nothing for the server to average.

    Raises:
        ConfigError: ``norm`` is neither of them.
    """
    if norm not in _FACTORIES:
        raise ConfigError("norm", norm, " or ".join(map(repr, _FACTORIES)))
    return _FACTORIES[norm](channels)
