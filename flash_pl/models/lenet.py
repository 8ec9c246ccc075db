"""LeNet-5 in its present-day form."""

from torch import Tensor, nn
from torch.nn import functional as F

from flash_pl.checks import check_integers
from flash_pl.errors import ConfigError
from flash_pl.models.initial import Init, initialise


class LeNet5(nn.Module):
    """LeCun et al. (1998), with ReLU and max-pooling: ``[B, in_channels, S, S]`` -> ``[B, num_classes]``.

    The network was drawn for 32x32 images. Smaller ones get a border of 2 in the first convolution, which makes 28x28
    equivalent to that.

    Args:
        num_classes: number of outputs.
        in_channels: channels of an image.
        image_size: side S of a square image, at least 12.
        init: of the layers before a ReLU, see ``initialise``.

    Raises:
        ConfigError: the image is smaller than what the layers consume, or a number is no positive integer.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28, init: Init = "lecun") -> None:
        super().__init__()
        check_integers(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        padding = 2 if image_size < 32 else 0
        side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
        if side < 1:
            raise ConfigError("image_size", image_size, "at least 12 for LeNet5")
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        initialise(init, self.conv1, self.conv2, self.fc1, self.fc2)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]``."""
        features = self.pool(F.relu(self.conv1(images)))
        features = self.pool(F.relu(self.conv2(features)))
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(features.flatten(1))))))
