"""MobileNetV2 for small images."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from flash_pl.checks import check_numbers
from flash_pl.errors import ConfigError
from flash_pl.models.layers import Norm, norm_layer


class VGG(nn.Module):
    """Simonyan and Zisserman (2015) with normalization: ``[B, in_channels, S, S]`` -> ``[B, num_classes]``.

    Five stages of 3x3 convolutions, each ended by a max-pool. The last pool takes all that is left of the image, so one
    linear layer of 512 inputs is the whole head at every image size; at 32x32 that is the usual 2x2 pool.

    Args:
        num_classes: number of outputs.
        in_channels: channels of an image.
        image_size: side S of a square image, at least 16.
        norm: normalization after every convolution.

    Raises:
        ConfigError: the image vanishes in the first four pools, or ``norm`` is unknown.
    """

    depths: ClassVar[tuple[int, int, int, int, int]]  # convolutions in the stages of 64, 128, 256, 512, 512 channels

    def __init__(self, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, norm: Norm = "batch") -> None:
        super().__init__()
        if image_size < 16:
            raise ConfigError("image_size", f"{image_size} is too small for VGG", "use at least 16")
        self.stages = nn.Sequential()
        inputs = in_channels
        pools = (2, 2, 2, 2, image_size // 16)
        for depth, outputs, pool in zip(self.depths, (64, 128, 256, 512, 512), pools, strict=True):
            layers: list[nn.Module] = []
            for _ in range(depth):
                conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
                layers += [conv, norm_layer(norm, outputs), nn.ReLU()]
                inputs = outputs
            self.stages.append(nn.Sequential(*layers, nn.MaxPool2d(pool)))
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]``."""
        return self.fc(self.stages(images).flatten(1))


class VGG11(VGG):
    """8 convolutions (configuration A of the paper).

    >>> import torch
    >>> VGG11()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    depths = (1, 1, 2, 2, 2)


class VGG16(VGG):
    """13 convolutions (configuration D of the paper).

    >>> import torch
    >>> VGG16(norm="group")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    depths = (2, 2, 3, 3, 3)


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
        norm: normalization after every convolution.

    Raises:
        ConfigError: the image is smaller than the total stride, or ``norm`` is unknown.
    """

    depths: ClassVar[tuple[int, int, int, int]]  # blocks in the stages of 64, 128, 256 and 512 channels

    def __init__(self, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, norm: Norm = "batch") -> None:
        super().__init__()
        if image_size < 8:
            raise ConfigError("image_size", f"{image_size} is too small for ResNet", "use at least 8")
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
    """20 convolutions, shortcuts included, of 11,159,232 weights for RGB images.

    >>> import torch
    >>> ResNet18()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    depths = (2, 2, 2, 2)


class ResNet34(ResNet):
    """36 convolutions, shortcuts included, of 21,259,968 weights for RGB images.

    >>> import torch
    >>> ResNet34(norm="group")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    depths = (3, 4, 6, 3)


# Expansion, channels, blocks and stride of each stage: table 2 of the paper, with the second stage's stride 2 -> 1.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def scaled(channels: int, width: float) -> int:
    """``width * channels`` to the nearest multiple of 8, but never more than 10 % less.

    >>> scaled(32, 1.0), scaled(24, 0.5), scaled(32, 0.35)
    (32, 16, 16)
    """
    rounded = max(8, int(width * channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width * channels else rounded + 8


def conv_norm(inputs: int, outputs: int, kernel: int, norm: Norm, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the image's size (but for ``stride``) and its normalization."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, norm_layer(norm, outputs))


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, norm: Norm) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand = conv_norm(inputs, hidden, 1, norm).append(nn.ReLU6()) if expansion > 1 else nn.Identity()
        self.depthwise = conv_norm(hidden, hidden, 3, norm, stride, groups=hidden).append(nn.ReLU6())
        self.project = conv_norm(hidden, outputs, 1, norm)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` -> ``[B, outputs, H / stride, W / stride]``."""
        features = self.project(self.depthwise(self.expand(images)))
        return images + features if self.residual else features


class MobileNetV2(nn.Module):
    """Sandler et al. (2018) at a total stride of 8, not 32: ``[B, in_channels, S, S]`` -> ``[B, num_classes]``.

    Without the paper's dropout, which would draw from the global random state.

    Args:
        num_classes: number of outputs.
        in_channels: channels of an image.
        image_size: side S of a square image, at least 8. The weights do not depend on it.
        norm: normalization after every convolution.
        width: factor on the channels of every layer, above 0; the last convolution is never below 1280.

    Raises:
        ConfigError: the image is smaller than the total stride, ``width`` is not positive, or ``norm`` is unknown.

    >>> import torch
    >>> MobileNetV2()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        norm: Norm = "batch",
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if image_size < 8:
            raise ConfigError("image_size", f"{image_size} is too small for MobileNetV2", "use at least 8")
        check_numbers("(0, inf)", width=width)
        inputs = scaled(32, width)
        self.stem = conv_norm(in_channels, inputs, 3, norm).append(nn.ReLU6())
        self.stages = nn.Sequential()
        for expansion, channels, depth, stride in STAGES:
            outputs = scaled(channels, width)
            first = InvertedResidual(inputs, outputs, expansion, stride, norm)
            rest = (InvertedResidual(outputs, outputs, expansion, 1, norm) for _ in range(depth - 1))
            self.stages.append(nn.Sequential(first, *rest))
            inputs = outputs
        outputs = scaled(1280, max(1.0, width))
        self.last = conv_norm(inputs, outputs, 1, norm).append(nn.ReLU6())
        self.fc = nn.Linear(outputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]``."""
        return self.fc(self.last(self.stages(self.stem(images))).mean(dim=(2, 3)))
