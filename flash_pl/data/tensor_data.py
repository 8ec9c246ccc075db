"""TensorData: tensors that are in memory already."""

from torch import Tensor
from typing_extensions import Unpack

from flash_pl.data.federated import FederatedDataModule, FederatedKeywords
from flash_pl.data.samples import Samples


class TensorData(FederatedDataModule):
    """Federates tensors of the caller.

    Args:
        train, test: ``Samples``, or ``(images [n, C, H, W], labels [n])``.
        classes: number of classes; None for one more than the largest label.
        mean, std: see ``FederatedDataModule``; the default leaves floating-point images as they are.
    """

    def __init__(
        self,
        train: Samples | tuple[Tensor, Tensor],
        test: Samples | tuple[Tensor, Tensor],
        *,
        classes: int | None = None,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        **keywords: Unpack[FederatedKeywords],
    ) -> None:
        super().__init__(**keywords)
        self.train, self.test = (split if isinstance(split, Samples) else Samples(*split) for split in (train, test))
        channels, height, width = self.train.images.shape[1:]
        self.shape = (channels, height, width)
        self.classes = classes or 1 + max(int(split.labels.max()) for split in (self.train, self.test))
        self.mean, self.std = mean, std

    def load(self) -> tuple[Samples, Samples]:
        """The tensors, not copied."""
        return self.train, self.test
