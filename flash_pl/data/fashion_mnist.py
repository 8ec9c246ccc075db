"""Fashion-MNIST."""

import gzip
from pathlib import Path
from typing import ClassVar

import torchvision

from flash_pl.data.idx import FILES, IdxData


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
