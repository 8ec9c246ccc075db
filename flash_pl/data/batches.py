"""Batches of a client from memory: no worker processes, no per-sample work."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.checks import check_integers, check_types
from flash_pl.errors import ConfigError


@dataclass(frozen=True)
class CropFlip:
    """Random crop after zero padding and random horizontal flip, every image on its own.

    Args:
        padding: pixels on every side; the crop has the image's own size.
        flip: whether to mirror half of the images.
    """

    padding: int = 4
    flip: bool = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment ``[B, C, H, W]``; draws the same numbers on every device."""
        count, _, height, width = images.shape
        offsets = torch.randint(0, 2 * self.padding + 1, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        rows = offsets[0, :, None] + torch.arange(height)
        columns = torch.arange(width).expand(count, width)
        columns = offsets[1, :, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
        # Gathering from flat images by one index a pixel is several times faster than indexing with three tensors.
        index = (rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]).view(count, 1, -1)
        padded = F.pad(images, [self.padding] * 4).flatten(2)
        return padded.gather(2, index.to(images.device).expand(-1, images.shape[1], -1)).view_as(images)


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
        check_types(images=(self.images, Tensor), labels=(self.labels, Tensor), owners=(self.owners, Tensor))
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


Augment = Callable[[Tensor, torch.Generator], Tensor]
Batch = tuple[Tensor, Tensor]


class Batches:
    """Mini-batches of tensors on whatever device they are on; the last one may be smaller.

    Args:
        images: normalized, floating point ``[n, C, H, W]``.
        labels: int64 ``[n]``.
        batch_size: samples per batch.
        augment: (images ``[B, C, H, W]``, generator) -> images, applied to shuffled batches only.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, augment: Augment | None = None) -> None:
        check_integers(batch_size=batch_size)
        self.images, self.labels, self.batch_size, self.augment = images, labels, batch_size, augment

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        return -(-self.samples // self.batch_size)

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return len(self.images)

    def __iter__(self) -> Iterator[Batch]:
        """All batches in order, as they are."""
        return zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True)

    def shuffled(self, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch in an order drawn from ``generator``, augmented."""
        order = torch.randperm(self.samples, generator=generator).to(self.images.device)
        for index in order.split(self.batch_size):
            images = self.images.index_select(0, index)
            if self.augment is not None:
                images = self.augment(images, generator)
            yield images, self.labels.index_select(0, index)


class Shuffled:
    """Batches that are shuffled anew in every epoch: what a stock Trainer takes for a data loader."""

    def __init__(self, batches: Batches, generator: torch.Generator) -> None:
        self.batches, self.generator = batches, generator

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches.shuffled(self.generator)
