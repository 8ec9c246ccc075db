"""Fashion-MNIST as deep networks take it, in a size for which a CPU is enough; the data of deep.py."""

from pathlib import Path

from torch.nn import functional as F
from typing_extensions import Unpack

from flash_pl.data import FashionMNIST, Samples
from flash_pl.data.tensors import FederatedKeywords


class PaddedFashionMNIST(FashionMNIST):
    """The first images of Fashion-MNIST, whose order is random, with two black pixels more at each side: 32x32.

    Args:
        root: see ``FashionMNIST``.
        train_samples: number of training images, for all clients together.
        test_samples: number of test images.
        **keywords: see ``FederatedDataModule``.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        train_samples: int = 60_000,
        test_samples: int = 10_000,
        **keywords: Unpack[FederatedKeywords],
    ) -> None:
        super().__init__(root, **keywords)
        self.train_samples, self.test_samples = train_samples, test_samples

    def load(self) -> tuple[Samples, Samples]:
        """Read all images, keep the first ones and pad them."""
        self.shape = FashionMNIST.shape  # of the images in the files, which are checked
        train, test = (
            Samples(F.pad(split.inputs[:samples], (2, 2, 2, 2)), split.labels[:samples])
            for split, samples in zip(super().load(), (self.train_samples, self.test_samples), strict=True)
        )
        self.shape = tuple(train.inputs.shape[1:])
        return train, test
