"""CIFAR-10 and CIFAR-100."""

from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision
from typing_extensions import Unpack

from flash_pl.data.augment import CropFlip
from flash_pl.data.federated import FederatedKeywords
from flash_pl.data.samples import Samples
from flash_pl.data.stored import StoredData


class CIFAR10(StoredData):
    """50,000 + 10,000 colour images of 10 classes (Krizhevsky, Learning Multiple Layers of Features, 2009).

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
    """50,000 + 10,000 colour images of 100 classes (Krizhevsky, Learning Multiple Layers of Features, 2009).

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
