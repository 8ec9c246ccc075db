"""Normalization layers."""

import pytest
from torch import nn

from flash_pl.errors import ConfigError
from flash_pl.models import VGG11, MobileNetV2, ResNet18, norm_layer


def test_batch() -> None:
    layer = norm_layer("batch", 24)
    assert isinstance(layer, nn.BatchNorm2d) and layer.num_features == 24


@pytest.mark.parametrize(("channels", "groups"), [(16, 16), (32, 32), (64, 32), (512, 32), (24, 8), (144, 16), (7, 1)])
def test_group(channels: int, groups: int) -> None:
    layer = norm_layer("group", channels)
    assert isinstance(layer, nn.GroupNorm) and (layer.num_groups, layer.num_channels) == (groups, channels)


def test_unknown_norm_names_the_allowed() -> None:
    with pytest.raises(ConfigError, match="norm: 'layer' .*batch.*group"):
        norm_layer("layer", 8)  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [ResNet18, VGG11, MobileNetV2])
def test_group_norm_leaves_no_buffers(build: type[ResNet18]) -> None:
    assert not list(build(norm="group").buffers())
    assert list(build(norm="batch").buffers())
