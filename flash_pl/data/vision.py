"""Image classification data sets: MNIST, FashionMNIST, CIFAR10, CIFAR100, TinyImageNet and Digits."""

import gzip
import os
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision
from torch import Tensor
from typing_extensions import Unpack

from flash_pl.archive import load_archive
from flash_pl.checks import check_booleans
from flash_pl.data.augment import CropFlip
from flash_pl.data.files import IDX_FILES, IdxData, StoredData
from flash_pl.data.formats import read_cifar, read_image
from flash_pl.data.samples import Samples
from flash_pl.data.tensors import FederatedDataModule, FederatedKeywords


class MNIST(IdxData):
    """60,000 + 10,000 handwritten digits (LeCun et al., Proceedings of the IEEE, 1998).

    Args:
        root: folder with ``MNIST/raw`` (torchvision's structure), or with the four idx files. If the files are missing,
            torchvision downloads them into the cache.
        **keywords: see ``FederatedDataModule``.

    >>> from flash_pl.data import Dirichlet
    >>> data = MNIST(root="data", clients=100, partition=Dirichlet(0.5))
    >>> data.classes, data.shape
    (10, (1, 28, 28))
    """

    classes = 10
    shape = (1, 28, 28)
    mean, std = (0.1307,), (0.3081,)
    folder = "MNIST/raw"
    remedies = (
        "set root to a folder with MNIST/raw or with its four idx files",
        "let torchvision download it into {cache} (set FLASH_PL_DATA to change that)",
    )

    def fetch(self, target: Path) -> None:
        """Download by torchvision."""
        torchvision.datasets.MNIST(target, download=True)


class FashionMNIST(IdxData):
    """60,000 + 10,000 images of clothes (Xiao et al., arXiv 1708.07747).

    Args:
        root: folder with ``FashionMNIST/raw`` (torchvision's structure), or with the four idx files. If the files are
            missing in the root and in the cache, they come from the Debian package ``dataset-fashion-mnist``, which is
            unpacked into the cache, or from torchvision's download.
        **keywords: see ``FederatedDataModule``.

    >>> from flash_pl.data import Dirichlet
    >>> data = FashionMNIST(root="data", clients=100, partition=Dirichlet(0.5))
    >>> data.classes, data.shape
    (10, (1, 28, 28))
    """

    classes = 10
    shape = (1, 28, 28)
    mean, std = (0.2860,), (0.3530,)
    folder = "FashionMNIST/raw"
    debian: ClassVar[Path] = Path("/usr/share/datasets/fashion-mnist")
    remedies = (
        "set root to a folder with FashionMNIST/raw or with its four idx files",
        "apt install dataset-fashion-mnist",
        "let torchvision download it into {cache} (set FLASH_PL_DATA to change that)",
    )

    def fetch(self, target: Path) -> None:
        """Unpack the Debian package if it is installed, otherwise download by torchvision."""
        if not self.has_files(self.debian):
            torchvision.datasets.FashionMNIST(target, download=True)
            return
        (target / self.folder).mkdir(parents=True)
        for name in IDX_FILES:
            packed = self.debian / f"{name}.gz"
            try:
                with gzip.open(packed) as source, (target / self.folder / name).open("wb") as file:
                    shutil.copyfileobj(source, file)
            except (EOFError, zlib.error) as error:
                raise OSError(f"{packed} is damaged: {error}") from error


class CIFAR10(StoredData):
    """50,000 + 10,000 color images of 10 classes (Krizhevsky, Learning Multiple Layers of Features, 2009).

    Args:
        root: folder with ``cifar-10-batches-py``, or that folder itself. If the files are missing, torchvision
            downloads them into the cache.
        checksum: whether the files must be the published ones; False reads images of your own in the same format.
        augment: by default ``CropFlip()``; None for no augmentation.
        **keywords: see ``FederatedDataModule``.

    >>> from flash_pl.data import Dirichlet
    >>> data = CIFAR10(root="data", clients=100, partition=Dirichlet(0.5))
    >>> data.classes, data.shape
    (10, (3, 32, 32))
    """

    source: ClassVar[Any] = torchvision.datasets.CIFAR10
    label: ClassVar[str] = "labels"
    classes = 10
    shape = (3, 32, 32)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    folder = "cifar-10-batches-py"
    remedies = (
        "set root to a folder with cifar-10-batches-py",
        "let torchvision download it into {cache} (set FLASH_PL_DATA to change that)",
    )

    def __init__(
        self, root: str | Path | None = None, checksum: bool = True, **keywords: Unpack[FederatedKeywords]
    ) -> None:
        keywords.setdefault("augment", CropFlip())
        super().__init__(root, **keywords)
        check_booleans(checksum=checksum)
        self.checksum = checksum

    def has_files(self, folder: Path) -> bool:
        """See ``StoredData``."""
        names = [name for name, _ in self.source.train_list + self.source.test_list]
        return folder.name == self.folder and all((folder / name).exists() for name in names)

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See ``StoredData``."""
        return self._read_batches(folder, self.source.train_list), self._read_batches(folder, self.source.test_list)

    def _read_batches(self, folder: Path, files: Sequence[Sequence[str]]) -> Samples:
        batches = [
            read_cifar(folder / name, self.label, self.classes, checksum if self.checksum else None)
            for name, checksum in files
        ]
        images, labels = zip(*batches, strict=True)
        return Samples(torch.cat(images), torch.cat(labels))

    def fetch(self, target: Path) -> None:
        """Download by torchvision; the archive is deleted."""
        self.source(target, download=True)
        (target / self.source.filename).unlink()


class CIFAR100(CIFAR10):
    """50,000 + 10,000 color images of 100 classes (Krizhevsky, Learning Multiple Layers of Features, 2009).

    Args:
        root: folder with ``cifar-100-python``, or that folder itself. If the files are missing, torchvision
            downloads them into the cache.
        checksum: whether the files must be the published ones; False reads images of your own in the same format.
        augment: by default ``CropFlip()``; None for no augmentation.
        **keywords: see ``FederatedDataModule``.

    >>> from flash_pl.data import Dirichlet
    >>> data = CIFAR100(root="data", clients=100, partition=Dirichlet(0.5))
    >>> data.classes, data.shape
    (100, (3, 32, 32))
    """

    source = torchvision.datasets.CIFAR100
    label = "fine_labels"
    classes = 100
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    folder = "cifar-100-python"
    remedies = (
        "set root to a folder with cifar-100-python",
        "let torchvision download it into {cache} (set FLASH_PL_DATA to change that)",
    )


class TinyImageNet(StoredData):
    """100,000 + 10,000 color images of 200 classes (Stanford course CS231N).

    The published validation set serves as the test set, since the published test set has no labels. The JPEG files are
    decoded once and stored as ``decoded.pt`` in their folder, if it is writable. Delete ``decoded.pt`` if you change an
    image.

    Args:
        root: folder with ``tiny-imagenet-200``, or that folder itself.
        **keywords: see ``FederatedDataModule``.

    >>> from flash_pl.data import Dirichlet
    >>> data = TinyImageNet(root="data", clients=100, partition=Dirichlet(0.5))
    >>> data.classes, data.shape
    (200, (3, 64, 64))
    """

    classes = 200
    shape = (3, 64, 64)
    mean, std = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    folder = "tiny-imagenet-200"
    remedies = (
        "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip in {cache} (set FLASH_PL_DATA to change that)",
        "set root to a folder with tiny-imagenet-200",
    )

    def has_files(self, folder: Path) -> bool:
        """See ``StoredData``."""
        return all((folder / name).exists() for name in ("wnids.txt", "train", "val/val_annotations.txt"))

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See ``StoredData``; images are uint8; gray images get three equal channels."""
        decoded = folder / "decoded.pt"
        if decoded.exists():
            try:
                train_images, train_labels, test_images, test_labels = load_archive(decoded)
            except (ValueError, TypeError) as error:
                remedy = "delete it, and the images are decoded again"
                raise ValueError(f"{decoded.name} cannot be used ({error}); {remedy}") from error
            return Samples(train_images, train_labels), Samples(test_images, test_labels)
        train, test = _decode(*_train_files(folder)), _decode(*_test_files(folder))
        if os.access(folder, os.W_OK):
            # Written under another name first, since another process may read the file at any moment.
            partial = folder / f".decoded-{os.getpid()}.pt"
            torch.save([train.inputs, train.labels, test.inputs, test.labels], partial)
            partial.replace(decoded)
        return train, test


def _train_files(folder: Path) -> tuple[list[Path], list[int]]:
    """The paths and labels of the training images."""
    files = [
        (path, label)
        for wnid, label in _classes(folder).items()
        for path in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
    ]
    return [path for path, _ in files], [label for _, label in files]


def _test_files(folder: Path) -> tuple[list[Path], list[int]]:
    """The paths and labels of the validation images.

    A line of the annotations has a file name, a WordNet id and a bounding box, separated by tabs.
    """
    classes, paths, labels = _classes(folder), [], []
    lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        file, wnid, *_ = [*line.split("\t"), "", ""]
        if wnid not in classes:
            raise ValueError(f"line {number} of val_annotations.txt has {wnid[:40]!r}, which is not in wnids.txt")
        paths.append(folder / "val" / "images" / file)
        labels.append(classes[wnid])
    return paths, labels


def _classes(folder: Path) -> dict[str, int]:
    """The label of each WordNet id: its line in ``wnids.txt``."""
    return {wnid: label for label, wnid in enumerate((folder / "wnids.txt").read_text().split())}


def _decode(paths: Sequence[Path], labels: Sequence[int]) -> Samples:
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the GIL
        images = list(pool.map(_pixels, paths))
    return Samples(torch.stack(images), torch.tensor(labels))


def _pixels(path: Path) -> Tensor:
    return torch.from_numpy(np.array(read_image(path, (64, 64)))).permute(2, 0, 1)


class Digits(FederatedDataModule):
    """The 8x8 digits of scikit-learn, 1437 for training and 360 for testing: a real data set without a download.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.

    >>> data = Digits(clients=10)
    >>> data.setup()
    >>> data.clients, data.val_dataloader().samples
    (10, 360)
    """

    classes = 10
    shape = (1, 8, 8)
    mean, std = (0.3053,), (0.3761,)

    def load(self) -> tuple[Samples, Samples]:
        """Scale the pixels from 0..16 to 0..1. Sorted by class, every fifth sample is a test sample."""
        from sklearn.datasets import load_digits  # importing scikit-learn takes a second

        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        labels = torch.from_numpy(digits.target).long()
        order = labels.argsort(stable=True)
        tested = torch.arange(len(order)) % 5 == 0
        train, test = order[~tested], order[tested]
        return Samples(images[train], labels[train]), Samples(images[test], labels[test])
