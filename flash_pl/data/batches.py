"""Samples in memory, the mini-batches of a client, and their augmentation.

Batches are cut from tensors that stay on the device where clients train. There are no worker processes and no Python
code per sample.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.checks import check_booleans, check_integers, check_types
from flash_pl.errors import ConfigError, as_yaml


@dataclass(frozen=True)
class Samples:
    """Images and labels of a data set or of a part of it, in memory.

    Attributes:
        images: uint8 in [0, 255] or floating point, ``[n, C, H, W]``.
        labels: int64 ``[n]``.
        owners: the number of each sample's natural client, such as the writer of a digit, int64 ``[n]``; None if the
            data have no natural clients.

    >>> samples = Samples(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 1]))
    >>> len(samples)
    3
    >>> Samples(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: samples: images of shape (3, 1, 8, 8) and labels of shape (2,) do not fit; give ...

    Raises:
        ConfigError: a wrong class or dtype, or shapes that do not fit together.
    """

    images: Tensor
    labels: Tensor
    owners: Tensor | None = None

    def __post_init__(self) -> None:
        check_types(owners=(self.owners, Tensor))
        for key, value in {"images": self.images, "labels": self.labels}.items():
            if not isinstance(value, Tensor):
                raise ConfigError(key, f"{as_yaml(value)} is not an object of class Tensor")
        if self.images.dtype != torch.uint8 and not self.images.is_floating_point():
            raise ConfigError("images", f"dtype {self.images.dtype} is neither uint8 nor floating point")
        if self.labels.dtype != torch.int64:
            raise ConfigError("labels", f"dtype {self.labels.dtype} is not int64")
        n = len(self.images)
        per_sample = [self.labels] if self.owners is None else [self.labels, self.owners]
        if self.images.ndim != 4 or any(tensor.shape != (n,) for tensor in per_sample):
            tensors = {"images": self.images, "labels": self.labels, "owners": self.owners}
            shapes = [f"{key} of shape {tuple(t.shape)}" for key, t in tensors.items() if t is not None]
            raise ConfigError(
                "samples",
                f"{' and '.join(shapes)} do not fit",
                "give images [n, C, H, W], labels [n] and, if the data have them, owners [n]",
            )

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Samples":
        """Return the samples with images and labels on ``device``; the owners stay where they are.

        Only the partition reads the owners, and it works on the CPU.
        """
        return Samples(self.images.to(device), self.labels.to(device), self.owners)


# Changes a batch of images [B, C, H, W], not normalized yet, at random, by numbers from the generator.
Augment = Callable[[Tensor, torch.Generator], Tensor]
Batch = tuple[Tensor, Tensor]  # images [B, C, H, W] and labels [B]


class Batches:
    """The mini-batches of one client, or of a test set. The last batch may be smaller.

    Iterate over ``Batches`` to get the samples in order, without augmentation; call ``shuffled`` for a training epoch.

    Args:
        images: floating point ``[n, C, H, W]``, on any device.
        labels: int64 ``[n]``, on the same device.
        batch_size: samples per batch.
        augment: a function (images ``[B, C, H, W]``, generator) -> images; only ``shuffled`` applies it.
        normalize: a function images -> images, applied to every batch after ``augment``, as in torchvision's recipes;
            None if ``images`` are normalized already.
        drop_last: leave out a smaller last batch, unless it is the only one.

    >>> batches = Batches(torch.zeros(5, 1, 2, 2), torch.arange(5), batch_size=2)
    >>> [labels.tolist() for images, labels in batches]
    [[0, 1], [2, 3], [4]]
    >>> epoch = [labels for images, labels in batches.shuffled(torch.Generator().manual_seed(0))]
    >>> sorted(torch.cat(epoch).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        augment: Augment | None = None,
        normalize: Callable[[Tensor], Tensor] | None = None,
        drop_last: bool = False,
    ) -> None:
        check_integers(batch_size=batch_size)
        check_booleans(drop_last=drop_last)
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.augment, self.normalize, self.drop_last = augment, normalize, drop_last

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.epoch_samples // self.batch_size)

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return len(self.images)

    @property
    def epoch_samples(self) -> int:
        """Number of samples in an epoch, fewer than n with ``drop_last``."""
        if not self.drop_last or self.samples < self.batch_size:
            return self.samples
        return self.samples // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        """The batches in the order of the samples, without augmentation."""
        samples, size = self.epoch_samples, self.batch_size
        batches = zip(self.images[:samples].split(size), self.labels[:samples].split(size), strict=True)
        for images, labels in batches:
            yield (images if self.normalize is None else self.normalize(images)), labels

    def shuffled(self, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch of augmented batches, in an order drawn from ``generator``."""
        order = torch.randperm(self.samples, generator=generator).to(self.images.device)
        for index in order[: self.epoch_samples].split(self.batch_size):
            images = self.images.index_select(0, index)
            if self.augment is not None:
                images = self.augment(images, generator)
            if self.normalize is not None:
                images = self.normalize(images)
            yield images, self.labels.index_select(0, index)


class Shuffled:
    """A loader that shuffles ``batches`` anew in every epoch, for a stock ``lightning.Trainer``.

    Args:
        batches: to shuffle.
        generator: every epoch draws its order from it.
    """

    def __init__(self, batches: Batches, generator: torch.Generator) -> None:
        self.batches, self.generator = batches, generator

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches.shuffled(self.generator)


@dataclass(frozen=True)
class CropFlip:
    """Random crop after zero padding, and random horizontal flip; each image gets its own crop and flip.

    Data sets augment before they normalize, as torchvision's recipes do, so the padding is black.

    Args:
        padding: pixels added on every side, of value 0; the crop has the size of the original image.
        flip: whether to mirror each image with probability 0.5.

    >>> images = torch.rand(2, 3, 32, 32)
    >>> CropFlip(padding=4)(images, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    """

    padding: int = 4
    flip: bool = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment ``[B, C, H, W]``. The draws do not depend on the device."""
        count, _, height, width = images.shape
        offsets = torch.randint(0, 2 * self.padding + 1, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        # Three numbers of each image go to the device, where they become an index of each pixel.
        top, left, mirror = torch.cat([offsets, mirrored.long()[None]]).to(images.device)[:, :, None]
        rows = top + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(count, width)
        columns = left + torch.where(mirror.bool(), width - 1 - columns, columns)
        # Gathering from flat images with one index per pixel is several times faster than indexing with three tensors.
        index = (rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]).view(count, 1, -1)
        padded = F.pad(images, [self.padding] * 4).flatten(2)
        return padded.gather(2, index.expand(-1, images.shape[1], -1)).view_as(images)
