"""MobileNetV2 against torchvision's, which differs only in its strides."""

import pytest
import torch
import torchvision
from torch import nn

from flash_pl.errors import ConfigError
from flash_pl.models import MobileNetV2


@pytest.mark.parametrize("width", [0.35, 0.5, 1.0, 1.4])
def test_parameters_equal_torchvision(width: float) -> None:
    def shapes(model: nn.Module) -> list[torch.Size]:
        return [parameter.shape for parameter in model.parameters()]

    with torch.device("meta"):
        reference = torchvision.models.mobilenet_v2(num_classes=10, width_mult=width)
        assert shapes(MobileNetV2(width=width)) == shapes(reference)


def test_total_stride_is_eight() -> None:
    model = MobileNetV2(norm="group")
    with torch.no_grad():
        assert model.stages(model.stem(torch.rand(1, 3, 32, 32))).shape == (1, 320, 4, 4)


def test_width_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="width: 0 "):
        MobileNetV2(width=0)
