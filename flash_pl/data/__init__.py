"""Data of a federation: data sets, partitions over clients, and batches."""

from flash_pl.data.augment import Augment, AugmentInTwoSteps, CropFlip
from flash_pl.data.batches import Batches, Shuffled, TensorBatches
from flash_pl.data.datamodule import PartitionedDataModule, as_federated
from flash_pl.data.dataset_module import MapDataset
from flash_pl.data.datasets import ClientDatasets, PartitionedDataset
from flash_pl.data.federated import ClientTestData, FederatedData, check_client_batches, check_federated, torn_down
from flash_pl.data.femnist import FEMNIST
from flash_pl.data.image_folder import ImageFolders
from flash_pl.data.partition import IID, Dirichlet, LabelShards, Partition, UnbalancedDirichlet
from flash_pl.data.partitioned import PartitionedData
from flash_pl.data.samples import Samples
from flash_pl.data.synthetic import Synthetic
from flash_pl.data.table import CSVTable
from flash_pl.data.tensors import FederatedDataModule, TensorData
from flash_pl.data.text import KingJames, TextFiles, Vocabulary
from flash_pl.data.vision import CIFAR10, CIFAR100, MNIST, Digits, FashionMNIST, TinyImageNet

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "FEMNIST",
    "IID",
    "MNIST",
    "Augment",
    "AugmentInTwoSteps",
    "Batches",
    "ClientDatasets",
    "ClientTestData",
    "CSVTable",
    "CropFlip",
    "Digits",
    "Dirichlet",
    "FashionMNIST",
    "FederatedData",
    "FederatedDataModule",
    "ImageFolders",
    "KingJames",
    "LabelShards",
    "MapDataset",
    "Partition",
    "PartitionedData",
    "PartitionedDataModule",
    "PartitionedDataset",
    "Samples",
    "Shuffled",
    "Synthetic",
    "TensorBatches",
    "TensorData",
    "TextFiles",
    "TinyImageNet",
    "UnbalancedDirichlet",
    "Vocabulary",
    "as_federated",
    "check_client_batches",
    "check_federated",
    "torn_down",
]
