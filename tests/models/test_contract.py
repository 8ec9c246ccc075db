"""What the trainer expects of every network."""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn

from flash_pl.errors import ConfigError
from flash_pl.models import VGG11, VGG16, LeafCNN, LeNet5, MNISTNet, MobileNetV2, ResNet18, ResNet34

MODELS = [MNISTNet, LeNet5, LeafCNN, ResNet18, ResNet34, VGG11, VGG16, MobileNetV2]
SMALLEST = {MNISTNet: 13, LeNet5: 12, LeafCNN: 4, ResNet18: 8, ResNet34: 8, VGG11: 16, VGG16: 16, MobileNetV2: 8}
Build = Callable[..., nn.Module]


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize(("num_classes", "in_channels", "image_size"), [(10, 1, 28), (7, 3, 32)])
def test_output_shape(build: Build, num_classes: int, in_channels: int, image_size: int) -> None:
    model = build(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    with torch.no_grad():
        assert model(torch.rand(2, in_channels, image_size, image_size)).shape == (2, num_classes)


@pytest.mark.parametrize("build", MODELS)
def test_defaults_are_those_of_its_images(build: Build) -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(build).parameters.items()}
    expected = (10, 1, 28) if build in (MNISTNet, LeNet5, LeafCNN) else (10, 3, 32)
    assert (defaults["num_classes"], defaults["in_channels"], defaults["image_size"]) == expected


@pytest.mark.parametrize("build", MODELS)
def test_smallest_image(build: Build) -> None:
    size = SMALLEST[build]
    with torch.no_grad():
        assert build(image_size=size, in_channels=1)(torch.rand(2, 1, size, size)).shape == (2, 10)
    with pytest.raises(ConfigError, match=f"image_size: {size - 1} .*{size}"):
        build(image_size=size - 1, in_channels=1)


@pytest.mark.parametrize("build", [VGG11, ResNet18, MobileNetV2])
def test_weights_do_not_depend_on_the_image_size(build: Build) -> None:
    small, large = build(image_size=32), build(image_size=64)
    assert [p.shape for p in small.parameters()] == [p.shape for p in large.parameters()]
    with torch.no_grad():
        assert large(torch.rand(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize("build", MODELS)
def test_every_parameter_gets_a_gradient(build: Build) -> None:
    model = build(in_channels=1, image_size=16)
    nn.functional.cross_entropy(model(torch.randn(4, 1, 16, 16)), torch.arange(4)).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("build", MODELS)
def test_construction_depends_on_the_seed_alone(build: Build) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build(image_size=16).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("build", MODELS)
def test_forward_draws_no_random_number(build: Build) -> None:
    model, images = build(in_channels=1, image_size=16).train(), torch.rand(2, 1, 16, 16)
    before = torch.get_rng_state()
    model(images)
    assert torch.equal(torch.get_rng_state(), before)
