"""Batches of a client from memory: no worker processes, no per-sample work."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from flash_pl.checks import check_integers

Augment = Callable[[Tensor, torch.Generator], Tensor]
Batch = tuple[Tensor, Tensor]


class Batches:
    """Mini-batches of tensors on whatever device they are on; the last one may be smaller.

    Args:
        images: normalised, floating point ``[n, C, H, W]``.
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
