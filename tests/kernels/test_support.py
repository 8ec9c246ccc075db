"""Which layers the kernels compute, and when they are used."""

import pytest
import torch
from torch import nn

from flash_pl.kernels import computes, images_worthwhile, linear_worthwhile, reaches

IMAGES = torch.randn(2, 4, 6, 6)


@pytest.mark.parametrize(
    ("module", "supported"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, stride=2), True),
        (nn.Conv2d(4, 4, 3, groups=2), True),
        (nn.Conv2d(4, 4, 3, dilation=2), False),
        (nn.Conv2d(4, 4, 3, padding="same"), False),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), False),
        (nn.Linear(6, 2), True),
        (nn.MaxPool2d(3, 1), True),
        (nn.MaxPool2d(3, 1, ceil_mode=True), False),
        (nn.MaxPool2d(16, 1), False),
        (nn.BatchNorm2d(4), True),
        (nn.BatchNorm2d(4, affine=False), False),
        (nn.ReLU(), False),
    ],
)
def test_supported_layers(module: nn.Module, supported: bool) -> None:
    assert computes(module) is supported


def test_supported_inputs() -> None:
    assert reaches(IMAGES) and not reaches(IMAGES.double()) and not reaches(IMAGES.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not reaches(IMAGES)


def test_torch_computes_dense_networks_and_small_linear_layers() -> None:
    stem, wide = torch.Size([64, 3, 3, 3]), torch.Size([64, 64, 3, 3])
    assert images_worthwhile([(stem, 1.0), (wide, 0.05)]) and not images_worthwhile([(stem, 1.0), (wide, 1.0)])
    assert images_worthwhile([(torch.Size([10, 1, 5, 5]), 1.0)])
    fc1 = torch.Size([50, 5120])
    assert linear_worthwhile(fc1, 0.05, rows=32) and not linear_worthwhile(fc1, 0.05, rows=1)
    assert not linear_worthwhile(torch.Size([10, 50]), 0.05, rows=32)
