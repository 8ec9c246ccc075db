"""The FEMNIST network of the LEAF benchmark."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from flash_pl.checks import check_integers
from flash_pl.errors import ConfigError
from flash_pl.models.initial import Init, initialise


class LeafCNN(nn.Module):
    """Two padded convolutions, one wide layer: ``[B, in_channels, S, S]`` -> ``[B, num_classes]``.

    Source: Caldas et al., LEAF: A Benchmark for Federated Settings (2018); 62 classes there.

    Args:
        num_classes: number of outputs.
        in_channels: channels of an image.
        image_size: side S of a square image, at least 4.
        channels: width of the two convolutions.
        hidden: width of the linear layer that holds most of the weights.
        init: of the layers before a ReLU, see ``initialise``.

    Raises:
        ConfigError: the image vanishes in the two 2x2 pools, ``channels`` are not two, or a number is not a positive
            integer.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
        channels: Sequence[int] = (32, 64),
        hidden: int = 2048,
        init: Init = "lecun",
    ) -> None:
        super().__init__()
        check_integers(num_classes=num_classes, in_channels=in_channels, image_size=image_size, hidden=hidden)
        if image_size < 4:
            raise ConfigError("image_size", image_size, "at least 4 for LeafCNN")
        if len(channels) != 2:
            raise ConfigError("channels", channels, "two widths, one for each convolution")
        for width in channels:
            check_integers(channels=width)
        side = image_size // 4
        self.conv1 = nn.Conv2d(in_channels, channels[0], kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(channels[0], channels[1], kernel_size=5, padding=2)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(channels[1] * side * side, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)
        initialise(init, self.conv1, self.conv2, self.fc1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]``."""
        features = self.pool(F.relu(self.conv1(images)))
        features = self.pool(F.relu(self.conv2(features)))
        return self.fc2(F.relu(self.fc1(features.flatten(1))))
