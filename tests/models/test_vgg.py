"""VGG networks."""

import pytest
import torch
import torchvision
from torch import nn

from flash_pl.models import VGG11, VGG16


@pytest.mark.parametrize(("build", "reference"), [(VGG11, torchvision.models.vgg11), (VGG16, torchvision.models.vgg16)])
def test_the_convolutions_are_those_of_the_paper(build: type[VGG11], reference: type[nn.Module]) -> None:
    def shapes(model: nn.Module) -> list[torch.Size]:
        return [module.weight.shape for module in model.modules() if isinstance(module, nn.Conv2d)]

    with torch.device("meta"):
        assert shapes(build()) == shapes(reference())


@pytest.mark.parametrize("image_size", [16, 28, 32, 64])
def test_the_last_pool_leaves_one_pixel(image_size: int) -> None:
    with torch.no_grad():
        features = VGG11(image_size=image_size, norm="group").stages(torch.rand(1, 3, image_size, image_size))
    assert features.shape == (1, 512, 1, 1)
