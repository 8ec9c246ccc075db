"""Data of a federation: data sets, partitions over clients, and batches from memory."""

from flash_pl.data.batches import Augment, Batches, CropFlip, Samples, Shuffled
from flash_pl.data.federated import ClientTestData, FederatedData, FederatedDataModule, check_federated
from flash_pl.data.femnist import FEMNIST
from flash_pl.data.partition import IID, Dirichlet, LabelShards, Partition, UnbalancedDirichlet
from flash_pl.data.synthetic import Synthetic
from flash_pl.data.tensors import TensorData
from flash_pl.data.vision import CIFAR10, CIFAR100, MNIST, Digits, FashionMNIST, TinyImageNet

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
