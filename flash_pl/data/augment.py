"""Random augmentation of training images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

# Changes a batch of images [B, C, H, W], not normalized yet, at random, by numbers from the generator.
Augment = Callable[[Tensor, torch.Generator], Tensor]


@runtime_checkable
class AugmentInTwoSteps(Protocol):
    """An augmentation whose numbers do not depend on the images.

    The numbers of a whole epoch are drawn on the host and sent to the device at once. So no step waits for them.
    """

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the numbers for a batch of ``count`` images: ``[k, count]`` on the CPU, k numbers for each image."""
        ...

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return the augmented images ``[B, C, H, W]``, given ``numbers`` ``[k, B]`` on their device."""
        ...


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
        return self.apply(images, self.draw(len(images), generator).to(images.device))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw for each image the first row and column of its crop and whether it is mirrored, int64 ``[3, count]``."""
        offsets = torch.randint(0, 2 * self.padding + 1, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        return torch.cat([offsets, mirrored.long()[None]])

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Crop and mirror ``[B, C, H, W]`` by the numbers of ``draw``, int64 ``[3, B]``."""
        height, width = images.shape[2:]
        top, left, mirror = numbers[:, :, None]
        rows = top + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(len(images), width)
        columns = left + torch.where(mirror.bool(), width - 1 - columns, columns)
        # Gathering from flat images with one index per pixel is several times faster than indexing with three tensors.
        index = (rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]).view(len(images), 1, -1)
        padded = F.pad(images, [self.padding] * 4).flatten(2)
        return padded.gather(2, index.expand(-1, images.shape[1], -1)).view_as(images)
