"""Residual networks for small images."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from flash_pl.errors import ConfigError
from flash_pl.models.norm import Norm, norm_layer


class BasicBlock(nn.Module):
    """relu(x + f(x)) with two 3x3 convolutions in f; where f changes the shape, a 1x1 convolution brings x along."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = norm_layer(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = norm_layer(norm, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, norm_layer(norm, outputs))

    def forward(self, images: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` -> ``[B, outputs, H / stride, W / stride]``."""
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(images)))))
        return F.relu(self.shortcut(images) + residual)


class ResNet(nn.Module):
    """He et al. (2016) with a 3x3 stem at full resolution: ``[B, in_channels, S, S]`` -> ``[B, num_classes]``.

    The 1x1 convolutions are named ``stages.*.shortcut.0``, so that a glob can leave them dense.

    Args:
        num_classes: number of outputs.
        in_channels: channels of an image.
        image_size: side S of a square image, at least 8. The weights do not depend on it.
        norm: normalisation after every convolution.

    Raises:
        ConfigError: the image is smaller than the total stride, or ``norm`` is unknown.
    """

    depths: ClassVar[tuple[int, int, int, int]]  # blocks in the stages of 64, 128, 256 and 512 channels

    def __init__(self, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, norm: Norm = "batch") -> None:
        super().__init__()
        if image_size < 8:
            raise ConfigError("image_size", image_size, "at least 8 for a ResNet")
        self.stem = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        self.norm = norm_layer(norm, 64)
        self.stages = nn.Sequential()
        inputs = 64
        for depth, outputs in zip(self.depths, (64, 128, 256, 512), strict=True):
            first = BasicBlock(inputs, outputs, stride=outputs // inputs, norm=norm)
            rest = (BasicBlock(outputs, outputs, stride=1, norm=norm) for _ in range(depth - 1))
            self.stages.append(nn.Sequential(first, *rest))
            inputs = outputs
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]``."""
        features = self.stages(F.relu(self.norm(self.stem(images))))
        return self.fc(features.mean(dim=(2, 3)))


class ResNet18(ResNet):
    """20 convolutions, shortcuts included, of 11,159,232 weights for RGB images."""

    depths = (2, 2, 2, 2)


class ResNet34(ResNet):
    """36 convolutions, shortcuts included, of 21,259,968 weights for RGB images."""

    depths = (3, 4, 6, 3)
