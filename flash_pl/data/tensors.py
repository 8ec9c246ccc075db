"""TensorData: tensors that are in memory already."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Unpack

from flash_pl.data.batches import Samples
from flash_pl.data.federated import FederatedDataModule, FederatedKeywords
from flash_pl.errors import ConfigError

Array = Tensor | np.ndarray


class TensorData(FederatedDataModule):
    """Federates tensors of the caller.

    Args:
        train, test: ``Samples``, or ``(images [n, C, H, W], labels [n])``, tensors or numpy arrays.
        classes: number of classes; None for one more than the largest label.
        mean, std: see ``FederatedDataModule``; the default leaves floating-point images as they are.

    Raises:
        ConfigError: by its key, what is not that.
    """

    def __init__(
        self,
        train: Samples | tuple[Array, Array],
        test: Samples | tuple[Array, Array],
        *,
        classes: int | None = None,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        **keywords: Unpack[FederatedKeywords],
    ) -> None:
        super().__init__(**keywords)
        self.train, self.test = _samples("train", train), _samples("test", test)
        channels, height, width = self.train.images.shape[1:]
        self.shape = (channels, height, width)
        self.classes = classes or 1 + max(int(split.labels.max()) for split in (self.train, self.test))
        self.mean, self.std = mean, std

    def load(self) -> tuple[Samples, Samples]:
        """The tensors, not copied."""
        return self.train, self.test


def _samples(key: str, split: object) -> Samples:
    if isinstance(split, Samples):
        return split
    if not isinstance(split, Sequence) or len(split) != 2 or not all(isinstance(part, Array) for part in split):
        raise ConfigError(key, type(split).__name__, "Samples, or (images [n, C, H, W], labels [n])")
    return Samples(*map(torch.as_tensor, split))
