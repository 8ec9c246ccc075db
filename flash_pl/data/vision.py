"""Tiny-ImageNet."""

import gzip
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from typing_extensions import Unpack

from flash_pl.data.batches import CropFlip, Samples
from flash_pl.data.federated import FederatedDataModule, FederatedKeywords
from flash_pl.data.files import FILES, IdxData, StoredData


class MNIST(IdxData):
    """60,000 + 10,000 handwritten digits (LeCun et al., Proceedings of the IEEE, 1998).

    Args:
        root: folder with ``MNIST/raw``, torchvision's layout, or with the four idx files themselves; a missing one is
            replaced by torchvision's download into the cache.
    """

    classes = 10
    shape = (1, 28, 28)
    mean, std = (0.1307,), (0.3081,)
    folder = "MNIST/raw"
    remedies = (
        "give root, a folder with its four idx files or MNIST/raw",
        "let torchvision download it into {cache} (FLASH_PL_DATA moves that)",
    )

    def fetch(self, stage: Path) -> None:
        """torchvision's download."""
        torchvision.datasets.MNIST(stage, download=True)


class FashionMNIST(IdxData):
    """60,000 + 10,000 images of clothes (Xiao et al., arXiv 1708.07747).

    Args:
        root: folder with ``FashionMNIST/raw``, torchvision's layout, or with the four idx files themselves. Without
            them come the cache, Debian's package ``dataset-fashion-mnist``, unpacked once into the cache, and
            torchvision's download.
    """

    classes = 10
    shape = (1, 28, 28)
    mean, std = (0.2860,), (0.3530,)
    folder = "FashionMNIST/raw"
    debian: ClassVar[Path] = Path("/usr/share/datasets/fashion-mnist")
    remedies = (
        "give root, a folder with its four idx files or FashionMNIST/raw",
        "apt install dataset-fashion-mnist",
        "let torchvision download it into {cache} (FLASH_PL_DATA moves that)",
    )

    def fetch(self, stage: Path) -> None:
        """Debian's package if it is installed, else torchvision's download."""
        if not self.holds(self.debian):
            torchvision.datasets.FashionMNIST(stage, download=True)
            return
        (stage / self.folder).mkdir(parents=True)
        for name in FILES:
            packed = (self.debian / f"{name}.gz").read_bytes()
            (stage / self.folder / name).write_bytes(gzip.decompress(packed))


class CIFAR10(StoredData):
    """50,000 + 10,000 color images of 10 classes (Krizhevsky, Learning Multiple Layers of Features, 2009).

    Args:
        root: folder with ``cifar-10-batches-py``, or that folder; a missing one is replaced by torchvision's download
            into the cache.
        augment: by default ``CropFlip()``; None for no augmentation.
    """

    source: ClassVar[Any] = torchvision.datasets.CIFAR10
    classes = 10
    shape = (3, 32, 32)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    folder = "cifar-10-batches-py"
    remedies = (
        "give root, a folder with cifar-10-batches-py",
        "let torchvision download it into {cache} (FLASH_PL_DATA moves that)",
    )

    def __init__(self, root: str | Path | None = None, **keywords: Unpack[FederatedKeywords]) -> None:
        keywords.setdefault("augment", CropFlip())
        super().__init__(root, **keywords)

    def holds(self, folder: Path) -> bool:
        """See ``StoredData``."""
        names = [name for name, _ in self.source.train_list + self.source.test_list]
        return folder.name == self.folder and all((folder / name).exists() for name in names)

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See ``StoredData``; torchvision compares the files' checksums before it opens them."""
        train, test = (self.source(folder.parent, train=train) for train in (True, False))
        return _samples(train), _samples(test)

    def fetch(self, stage: Path) -> None:
        """torchvision's download, without the archive."""
        self.source(stage, download=True)
        (stage / self.source.filename).unlink()


class CIFAR100(CIFAR10):
    """50,000 + 10,000 color images of 100 classes (Krizhevsky, Learning Multiple Layers of Features, 2009).

    Args:
        root: folder with ``cifar-100-python``, or that folder; a missing one is replaced by torchvision's download
            into the cache.
        augment: by default ``CropFlip()``; None for no augmentation.
    """

    source = torchvision.datasets.CIFAR100
    classes = 100
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    folder = "cifar-100-python"
    remedies = (
        "give root, a folder with cifar-100-python",
        "let torchvision download it into {cache} (FLASH_PL_DATA moves that)",
    )


def _samples(split: Any) -> Samples:
    images = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()
    return Samples(images, torch.tensor(split.targets))


class Digits(FederatedDataModule):
    """scikit-learn's 8x8 digits, 1437 for training and 360 for testing: a real data set without any file.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """

    classes = 10
    shape = (1, 8, 8)
    mean, std = (0.3053,), (0.3761,)

    def load(self) -> tuple[Samples, Samples]:
        """Pixels 0..16 become 0..1. With the samples sorted by class, every fifth one is a test sample."""
        from sklearn.datasets import load_digits  # takes a second, which nobody else should pay

        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        labels = torch.from_numpy(digits.target).long()
        order = labels.argsort(stable=True)
        tested = torch.arange(len(order)) % 5 == 0
        train, test = order[~tested], order[tested]
        return Samples(images[train], labels[train]), Samples(images[test], labels[test])


class TinyImageNet(StoredData):
    """100,000 + 10,000 color images of 200 classes (Stanford's course CS231N); the validation set is the test set.

    The JPEG files are decoded once, into ``decoded.pt`` beside them if that folder is writable; delete it after
    changing an image.

    Args:
        root: folder with ``tiny-imagenet-200``, or that folder.
    """

    classes = 200
    shape = (3, 64, 64)
    mean, std = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    folder = "tiny-imagenet-200"
    remedies = (
        "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip in {cache} (FLASH_PL_DATA moves that)",
        "give root, a folder with tiny-imagenet-200",
    )

    def holds(self, folder: Path) -> bool:
        """See ``StoredData``."""
        return all((folder / name).exists() for name in ("wnids.txt", "train", "val/val_annotations.txt"))

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See ``StoredData``; images are uint8, grey ones have three equal channels."""
        cached = folder / "decoded.pt"
        if cached.exists():
            train_x, train_y, test_x, test_y = torch.load(cached, weights_only=True)
            return Samples(train_x, train_y), Samples(test_x, test_y)
        train, test = _decode(*_train_files(folder)), _decode(*_test_files(folder))
        if os.access(folder, os.W_OK):
            # Written elsewhere and renamed, since another process may read it at any moment.
            partial = folder / f".decoded-{os.getpid()}.pt"
            torch.save([train.images, train.labels, test.images, test.labels], partial)
            partial.replace(cached)
        return train, test


def _class_of(folder: Path) -> dict[str, int]:
    """WordNet ids in the order of ``wnids.txt``, which numbers the classes."""
    return {wnid: index for index, wnid in enumerate((folder / "wnids.txt").read_text().split())}


def _train_files(folder: Path) -> tuple[list[Path], list[int]]:
    files = [
        (path, label)
        for wnid, label in _class_of(folder).items()
        for path in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
    ]
    return [path for path, _ in files], [label for _, label in files]


def _test_files(folder: Path) -> tuple[list[Path], list[int]]:
    """Every line of the annotations is a file name, a WordNet id and a bounding box, separated by tabs."""
    lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    fields = [line.split("\t") for line in lines]
    class_of = _class_of(folder)
    return [folder / "val" / "images" / field[0] for field in fields], [class_of[field[1]] for field in fields]


def _decode(paths: Sequence[Path], labels: Sequence[int]) -> Samples:
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        images = list(pool.map(_pixels, paths))
    return Samples(torch.stack(images), torch.tensor(labels))


def _pixels(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
