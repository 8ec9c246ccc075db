"""MNISTNet against the numbers of the paper."""

import torch
from torch import nn

from flash_pl.models import MNISTNet


def test_shapes_and_maskable_weights() -> None:
    shapes = {name: tuple(weight.shape) for name, weight in MNISTNet().named_parameters() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (10, 1, 5, 5),
        "conv2.weight": (20, 10, 5, 5),
        "fc1.weight": (50, 5120),
        "fc2.weight": (10, 50),
    }
    model = MNISTNet()
    assert model.conv2.weight.numel() + model.fc1.weight.numel() == 261_000


def test_softmax_returns_the_probabilities_of_the_logits() -> None:
    model, images = MNISTNet(), torch.rand(3, 1, 28, 28)
    probabilities = MNISTNet(softmax=True)
    probabilities.load_state_dict(model.state_dict())
    torch.testing.assert_close(probabilities(images), model(images).softmax(dim=1))


def test_equals_the_layers_written_out() -> None:
    model, images = MNISTNet(), torch.rand(3, 1, 28, 28)
    layers: list[nn.Module] = [model.conv1, nn.MaxPool2d(3, 1), nn.ReLU(), model.conv2, nn.MaxPool2d(3, 1), nn.ReLU()]
    written = nn.Sequential(*layers, nn.Flatten(), model.fc1, nn.ReLU(), model.fc2)
    assert torch.equal(model(images), written(images))
    with torch.no_grad():
        assert torch.equal(model(images), written(images))


def test_channels_last_equals_contiguous() -> None:
    model, images = MNISTNet(in_channels=3), torch.rand(4, 3, 28, 28)
    strided = MNISTNet(in_channels=3).to(memory_format=torch.channels_last)
    strided.load_state_dict(model.state_dict())
    expected = model(images)
    torch.testing.assert_close(strided(images.to(memory_format=torch.channels_last)), expected)
    with torch.no_grad():
        torch.testing.assert_close(strided(images.to(memory_format=torch.channels_last)), expected)
