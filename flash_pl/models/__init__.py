"""Networks as plain torch modules.

Those for images take ``num_classes``, ``in_channels`` and ``image_size``, those for text ``num_classes``.
"""

from flash_pl.models.large import VGG11, VGG16, MobileNetV2, ResNet18, ResNet34
from flash_pl.models.layers import Norm, norm_layer
from flash_pl.models.small import MLP, LeafCNN, LeNet5, MNISTNet
from flash_pl.models.text import CharLSTM, CharTransformer

__all__ = [
    "MLP",
    "VGG11",
    "VGG16",
    "CharLSTM",
    "CharTransformer",
    "LeNet5",
    "LeafCNN",
    "MNISTNet",
    "MobileNetV2",
    "Norm",
    "ResNet18",
    "ResNet34",
    "norm_layer",
]
