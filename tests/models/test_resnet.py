"""Residual networks against the counts of the paper."""

import pytest
import torch
from torch import nn

from flash_pl.models import ResNet18, ResNet34


@pytest.mark.parametrize(("build", "convs", "weights"), [(ResNet18, 20, 11_159_232), (ResNet34, 36, 21_259_968)])
def test_convolutions(build: type[ResNet18], convs: int, weights: int) -> None:
    found = [module for module in build().modules() if isinstance(module, nn.Conv2d)]
    assert len(found) == convs
    assert sum(conv.weight.numel() for conv in found) == weights
    assert all(conv.bias is None for conv in found)


def test_shortcuts_can_be_named() -> None:
    convs = [name for name, module in ResNet18().named_modules() if isinstance(module, nn.Conv2d)]
    assert [name for name in convs if "shortcut" in name] == [f"stages.{stage}.0.shortcut.0" for stage in (1, 2, 3)]


def test_the_stem_keeps_the_resolution() -> None:
    model = ResNet18(norm="group")
    with torch.no_grad():
        features = model.stem(torch.rand(1, 3, 32, 32))
        assert features.shape == (1, 64, 32, 32)
        assert model.stages(features).shape == (1, 512, 4, 4)
