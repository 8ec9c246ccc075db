"""Images and labels of a data set, as tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.checks import check_kinds
from flash_pl.errors import ConfigError


@dataclass(frozen=True)
class Samples:
    """A part of a data set in memory.

    Attributes:
        images: uint8 in [0, 255] or floating point, ``[n, C, H, W]``.
        labels: int64 ``[n]``.
        owners: int64 ``[n]``, which client a sample belongs to by nature, or None.

    Raises:
        ConfigError: other types, or shapes that do not fit together.
    """

    images: Tensor
    labels: Tensor
    owners: Tensor | None = None

    def __post_init__(self) -> None:
        check_kinds(images=(self.images, Tensor), labels=(self.labels, Tensor), owners=(self.owners, Tensor))
        if self.images.dtype != torch.uint8 and not self.images.is_floating_point():
            raise ConfigError("images", self.images.dtype, "uint8 or floating point")
        if self.labels.dtype != torch.int64:
            raise ConfigError("labels", self.labels.dtype, "int64")
        n = len(self.images)
        if (
            self.images.ndim != 4
            or self.labels.shape != (n,)
            or (self.owners is not None and self.owners.shape != (n,))
        ):
            owners = None if self.owners is None else tuple(self.owners.shape)
            shapes = tuple(self.images.shape), tuple(self.labels.shape), owners
            raise ConfigError("samples", shapes, "images [n, C, H, W], labels [n] and owners [n] or none")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Samples":
        """The same samples on ``device``; owners stay where they are, they are needed for the partition only."""
        return Samples(self.images.to(device), self.labels.to(device), self.owners)
