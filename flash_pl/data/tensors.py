"""TensorData: tensors or numpy arrays of the caller as federated data."""

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
    """Federated data from tensors that are in memory already.

    Args:
        train, test: ``Samples``, or a pair (images ``[n, C, H, W]``, labels ``[n]``) of tensors or numpy arrays.
        classes: number of classes; by default the largest label + 1.
        mean, std: of each channel. By default floating-point images are not normalized.
        **keywords: see ``FederatedDataModule``.

    >>> images, labels = torch.rand(100, 1, 8, 8), torch.arange(100) % 10
    >>> data = TensorData((images[:80], labels[:80]), (images[80:], labels[80:]), clients=4)
    >>> data.setup()
    >>> data.classes, data.shape, data.client_sizes
    (10, (1, 8, 8), [20, 20, 20, 20])

    Raises:
        ConfigError: neither samples nor such a pair, or an argument that ``FederatedDataModule`` refuses.
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
        self.train, self.test = _as_samples("train", train), _as_samples("test", test)
        channels, height, width = self.train.images.shape[1:]
        self.shape = (channels, height, width)
        self.classes = classes or 1 + max(int(split.labels.max()) for split in (self.train, self.test))
        self.mean, self.std = mean, std

    def load(self) -> tuple[Samples, Samples]:
        """Return the tensors; they are not copied."""
        return self.train, self.test


def _as_samples(key: str, split: object) -> Samples:
    if isinstance(split, Samples):
        return split
    if not isinstance(split, Sequence) or len(split) != 2 or not all(isinstance(array, Array) for array in split):
        raise ConfigError(
            key,
            f"an object of class {type(split).__name__} is not a set of samples",
            "give Samples, or a pair of tensors or numpy arrays: images [n, C, H, W], labels [n]",
        )
    return Samples(*map(torch.as_tensor, split))
