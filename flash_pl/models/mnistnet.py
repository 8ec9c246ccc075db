"""The MNIST network of the FLASH paper."""

from torch import Tensor, nn
from torch.nn import functional as F

from flash_pl.checks import check_integers
from flash_pl.errors import ConfigError
from flash_pl.models.initial import Init, initialise


class MNISTNet(nn.Module):
    """Two convolutions and two linear layers: ``[B, in_channels, S, S]`` -> ``[B, num_classes]``.

    At 28x28 the weights of ``conv2`` and ``fc1``, the set that FLASH masks, number 5,000 + 256,000 = 261,000.

    Args:
        num_classes: number of outputs.
        in_channels: channels of an image.
        image_size: side S of a square image, at least 13.
        init: of the layers before a ReLU, see ``initialise``; the authors' code has ``"torch"``.
        softmax: return probabilities instead of logits. The authors' code does so before its cross-entropy, which
            applies softmax a second time; that flattens the gradient and costs accuracy.

    Raises:
        ConfigError: the image is smaller than what the layers consume, or a number is no positive integer.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
        init: Init = "lecun",
        softmax: bool = False,
    ) -> None:
        super().__init__()
        check_integers(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        side = image_size - 2 * (4 + 2)  # two rounds of an unpadded 5x5 convolution and a 3x3 pool
        if side < 1:
            raise ConfigError("image_size", image_size, "at least 13 for MNISTNet")
        self.conv1 = nn.Conv2d(in_channels, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.pool = nn.MaxPool2d(3, stride=1)
        self.fc1 = nn.Linear(20 * side * side, 50)
        self.fc2 = nn.Linear(50, num_classes)
        self.softmax = softmax
        initialise(init, self.conv1, self.conv2, self.fc1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, or probabilities with ``softmax``, ``[B, num_classes]``."""
        features = F.relu(self.pool(self.conv1(images)))
        features = F.relu(self.pool(self.conv2(features)))
        logits = self.fc2(F.relu(self.fc1(features.flatten(1))))
        return logits.softmax(dim=1) if self.softmax else logits
