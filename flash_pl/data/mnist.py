"""MNIST."""

from pathlib import Path

import torchvision

from flash_pl.data.idx import IdxData


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
