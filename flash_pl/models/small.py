"""Small networks: for images of 28x28 pixels, and for rows of a table."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from flash_pl.checks import check_integers
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.models.layers import Init, initialize


class LeNet5(nn.Module):
    """LeCun et al. (1998), with ReLU and max-pooling: ``[B, in_channels, S, S]`` -> ``[B, num_classes]``.

    The network was drawn for 32x32 images. Smaller ones get a border of 2 in the first convolution, which makes 28x28
    equivalent to that.

    Args:
        num_classes: number of outputs.
        in_channels: channels of an image.
        image_size: side S of a square image, at least 12.
        init: draw of the weights before a ReLU: "lecun" has variance 1 / fan-in and "he" 2 / fan-in; "torch" is
            PyTorch's own.

    Raises:
        ConfigError: the image is smaller than what the layers consume, or a number is no positive integer.

    >>> import torch
    >>> LeNet5()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28, init: Init = "lecun") -> None:
        super().__init__()
        check_integers(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        padding = 2 if image_size < 32 else 0
        side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
        if side < 1:
            raise ConfigError("image_size", f"{image_size} is too small for LeNet5", "use at least 12")
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        initialize(init, self.conv1, self.conv2, self.fc1, self.fc2)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]``."""
        features = self.pool(F.relu(self.conv1(images)))
        features = self.pool(F.relu(self.conv2(features)))
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(features.flatten(1))))))


class MNISTNet(nn.Module):
    """Two convolutions and two linear layers: ``[B, in_channels, S, S]`` -> ``[B, num_classes]``.

    At 28x28 the weights of ``conv2`` and ``fc1``, the set that FLASH masks, number 5,000 + 256,000 = 261,000.

    Args:
        num_classes: number of outputs.
        in_channels: channels of an image.
        image_size: side S of a square image, at least 13.
        init: draw of the weights before a ReLU: "lecun" has variance 1 / fan-in and "he" 2 / fan-in; "torch" is
            PyTorch's own, as in the authors' code.
        softmax: return probabilities instead of logits. The authors' code does so before its cross-entropy, which
            applies softmax a second time; that flattens the gradient and costs accuracy.

    Raises:
        ConfigError: the image is smaller than what the layers consume, or a number is no positive integer.

    >>> import torch
    >>> MNISTNet()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
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
            raise ConfigError("image_size", f"{image_size} is too small for MNISTNet", "use at least 13")
        self.conv1 = nn.Conv2d(in_channels, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.pool = nn.MaxPool2d(3, stride=1)
        self.fc1 = nn.Linear(20 * side * side, 50)
        self.fc2 = nn.Linear(50, num_classes)
        self.softmax = softmax
        initialize(init, self.conv1, self.conv2, self.fc1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, or probabilities with ``softmax``, ``[B, num_classes]``."""
        features = F.relu(self.pool(self.conv1(images)))
        features = F.relu(self.pool(self.conv2(features)))
        logits = self.fc2(F.relu(self.fc1(features.flatten(1))))
        return logits.softmax(dim=1) if self.softmax else logits


class LeafCNN(nn.Module):
    """Two padded convolutions, one wide layer: ``[B, in_channels, S, S]`` -> ``[B, num_classes]``.

    Source: Caldas et al., LEAF: A Benchmark for Federated Settings (2018); 62 classes there.

    Args:
        num_classes: number of outputs.
        in_channels: channels of an image.
        image_size: side S of a square image, at least 4.
        channels: width of the two convolutions.
        hidden: width of the linear layer that holds most of the weights.
        init: draw of the weights before a ReLU: "lecun" has variance 1 / fan-in and "he" 2 / fan-in; "torch" is
            PyTorch's own.

    Raises:
        ConfigError: the image vanishes in the two 2x2 pools, ``channels`` are not two, or a number is not a positive
            integer.

    >>> import torch
    >>> LeafCNN(image_size=8, channels=(16, 32), hidden=128)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
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
            raise ConfigError("image_size", f"{image_size} is too small for LeafCNN", "use at least 4")
        if len(channels) != 2:
            raise ConfigError(
                "channels", f"{as_yaml(list(channels))} is not a list of two widths", "give one for each convolution"
            )
        for width in channels:
            check_integers(channels=width)
        side = image_size // 4
        self.conv1 = nn.Conv2d(in_channels, channels[0], kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(channels[0], channels[1], kernel_size=5, padding=2)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(channels[1] * side * side, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)
        initialize(init, self.conv1, self.conv2, self.fc1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]``."""
        features = self.pool(F.relu(self.conv1(images)))
        features = self.pool(F.relu(self.conv2(features)))
        return self.fc2(F.relu(self.fc1(features.flatten(1))))


class MLP(nn.Module):
    """Linear layers with ReLU between them, for rows of a table: ``[B, in_features]`` -> ``[B, num_classes]``.

    Args:
        in_features: number of columns.
        num_classes: number of outputs.
        hidden: width of each hidden layer.
        init: draw of the weights before a ReLU: "lecun" has variance 1 / fan-in and "he" 2 / fan-in; "torch" is
            PyTorch's own.

    Raises:
        ConfigError: a number is not a positive integer.

    >>> import torch
    >>> MLP(in_features=13)(torch.zeros(2, 13)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, in_features: int, num_classes: int = 10, hidden: Sequence[int] = (128, 128), init: Init = "he"
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden, num_classes]
        for width in widths:
            check_integers(hidden=width)
        layers = [nn.Linear(*sides) for sides in pairwise(widths)]
        self.hidden, self.output = nn.ModuleList(layers[:-1]), layers[-1]
        initialize(init, *layers[:-1])

    def forward(self, rows: Tensor) -> Tensor:
        """Logits ``[B, num_classes]``."""
        for layer in self.hidden:
            rows = F.relu(layer(rows))
        return self.output(rows)
