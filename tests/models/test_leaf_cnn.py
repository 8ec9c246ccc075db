"""The LEAF network."""

import pytest
import torch

from flash_pl.errors import ConfigError
from flash_pl.models import LeafCNN


def test_parameters_of_the_femnist_network() -> None:
    # 5x5x1x32 + 32, 5x5x32x64 + 64, 7x7x64x2048 + 2048, 2048x62 + 62
    assert sum(p.numel() for p in LeafCNN(num_classes=62).parameters()) == 832 + 51_264 + 6_424_576 + 127_038


def test_widths() -> None:
    model = LeafCNN(image_size=8, channels=[4, 6], hidden=16)
    assert (model.conv1.out_channels, model.conv2.out_channels) == (4, 6)
    assert model.fc1.weight.shape == (16, 6 * 2 * 2)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_channels_must_be_two() -> None:
    with pytest.raises(ConfigError, match="channels: "):
        LeafCNN(channels=(32,))


@pytest.mark.parametrize(("key", "value"), [("hidden", 0), ("hidden", 2.5), ("in_channels", 0), ("channels", (0, 4))])
def test_widths_are_positive_integers(key, value) -> None:
    with pytest.raises(ConfigError, match=f"{key}: "):
        LeafCNN(**{key: value})
