"""How the layers before a ReLU are initialised."""

from typing import Literal

from torch import nn

from flash_pl.errors import ConfigError

Init = Literal["lecun", "he", "torch"]

_VARIANCE = {"lecun": 1.0, "he": 2.0}  # times fan-in


def initialise(init: Init, *hidden: nn.Conv2d | nn.Linear) -> None:
    """Initialise the ``hidden`` layers, those that a ReLU follows.

    ``"lecun"`` draws weights from a normal distribution of variance 1 / fan-in (LeCun et al., Efficient BackProp, 1998,
    section 4.6) and ``"he"`` of 2 / fan-in (He et al., ICCV 2015, eq. 10); biases become 0. ``"torch"`` leaves
    PyTorch's own draw of variance 1 / (3 fan-in), under which activations shrink from layer to layer where nothing
    normalises them, and training starts slowly. ``"he"`` starts fastest and needs the smallest learning rate.

    Raises:
        ConfigError: ``init`` is none of them.
    """
    if init not in (*_VARIANCE, "torch"):
        raise ConfigError("init", init, "'lecun', 'he' or 'torch'")
    if init == "torch":
        return
    for layer in hidden:
        nn.init.normal_(layer.weight, std=(_VARIANCE[init] / layer.weight[0].numel()) ** 0.5)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
