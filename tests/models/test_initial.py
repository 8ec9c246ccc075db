"""Initial weights have the variance that their name promises."""

import pytest
import torch

from flash_pl.errors import ConfigError
from flash_pl.models import LeafCNN, LeNet5, MNISTNet


@pytest.mark.parametrize("build", [MNISTNet, LeNet5, LeafCNN])
@pytest.mark.parametrize(("init", "variance"), [("lecun", 1.0), ("he", 2.0), ("torch", 1 / 3)])
def test_hidden_layers_have_the_variance_of_their_name(build, init: str, variance: float) -> None:
    torch.manual_seed(0)
    model = build(init=init)
    fan_in = model.fc1.weight.shape[1]
    assert float(model.fc1.weight.detach().var()) * fan_in == pytest.approx(variance, rel=0.02)
    assert bool(model.fc1.bias.any()) == (init == "torch")
    # The last layer is not followed by a ReLU and stays PyTorch's.
    last = list(model.children())[-1]
    assert bool(last.bias.any())


def test_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="init: 'xavier' .*lecun.*he.*torch"):
        MNISTNet(init="xavier")
