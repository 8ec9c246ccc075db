"""Networks as plain torch modules; each takes ``num_classes``, ``in_channels`` and ``image_size``."""

from flash_pl.models.leaf_cnn import LeafCNN
from flash_pl.models.lenet import LeNet5
from flash_pl.models.mnistnet import MNISTNet
from flash_pl.models.mobilenet import MobileNetV2
from flash_pl.models.norm import Norm, norm_layer
from flash_pl.models.resnet import ResNet18, ResNet34
from flash_pl.models.vgg import VGG11, VGG16

__all__ = [
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
