"""Data of a federation: partitioners, batches from memory, data sets."""

from flash_pl.data.augment import CropFlip
from flash_pl.data.batches import Augment, Batches, Shuffled
from flash_pl.data.cifar import CIFAR10, CIFAR100
from flash_pl.data.digits import Digits
from flash_pl.data.fashion_mnist import FashionMNIST
from flash_pl.data.federated import FederatedDataModule
from flash_pl.data.femnist import FEMNIST
from flash_pl.data.mnist import MNIST
from flash_pl.data.partition import IID, Dirichlet, LabelShards, Partition, UnbalancedDirichlet
from flash_pl.data.protocol import ClientTestData, FederatedData, check_federated
from flash_pl.data.samples import Samples
from flash_pl.data.synthetic import Synthetic
from flash_pl.data.tensor_data import TensorData
from flash_pl.data.tiny_imagenet import TinyImageNet

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "FEMNIST",
    "IID",
    "MNIST",
    "Augment",
    "Batches",
    "ClientTestData",
    "CropFlip",
    "Digits",
    "Dirichlet",
    "FashionMNIST",
    "FederatedData",
    "FederatedDataModule",
    "LabelShards",
    "Partition",
    "Samples",
    "Shuffled",
    "Synthetic",
    "TensorData",
    "TinyImageNet",
    "UnbalancedDirichlet",
    "check_federated",
]
