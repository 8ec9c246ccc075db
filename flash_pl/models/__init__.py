"""Networks as plain torch modules; those for images take ``num_classes``, ``in_channels`` and ``image_size``."""

from flash_pl.models.large import VGG11, VGG16, MobileNetV2, ResNet18, ResNet34
from flash_pl.models.layers import Norm, norm_layer
from flash_pl.models.small import MLP, LeafCNN, LeNet5, MNISTNet

__all__ = [
    "MLP",
    "VGG11",
    "VGG16",
    "LeNet5",
    "LeafCNN",
    "MNISTNet",
    "MobileNetV2",
    "Norm",
    "ResNet18",
    "ResNet34",
    "norm_layer",
]
