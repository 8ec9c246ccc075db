"""VGG networks for small images."""

from typing import ClassVar

from torch import Tensor, nn

from flash_pl.errors import ConfigError
from flash_pl.models.norm import Norm, norm_layer


class VGG(nn.Module):
    """Simonyan and Zisserman (2015) with normalisation: ``[B, in_channels, S, S]`` -> ``[B, num_classes]``.

    Five stages of 3x3 convolutions, each ended by a max-pool. The last pool takes all that is left of the image, so one
    linear layer of 512 inputs is the whole head at every image size; at 32x32 that is the usual 2x2 pool.

    Args:
        num_classes: number of outputs.
        in_channels: channels of an image.
        image_size: side S of a square image, at least 16.
        norm: normalisation after every convolution.

    Raises:
        ConfigError: the image vanishes in the first four pools, or ``norm`` is unknown.
    """

    depths: ClassVar[tuple[int, int, int, int, int]]  # convolutions in the stages of 64, 128, 256, 512, 512 channels

    def __init__(self, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, norm: Norm = "batch") -> None:
        super().__init__()
        if image_size < 16:
            raise ConfigError("image_size", image_size, "at least 16 for a VGG")
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
    """8 convolutions (configuration A of the paper)."""

    depths = (1, 1, 2, 2, 2)


class VGG16(VGG):
    """13 convolutions (configuration D of the paper)."""

    depths = (2, 2, 3, 3, 3)
