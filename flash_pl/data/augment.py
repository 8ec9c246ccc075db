"""Random crops and flips of a whole batch at once, on its device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


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
        padded = F.pad(images, [self.padding] * 4)
        index = torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]
        # Advanced indexing puts the channels last; they go back to the second place without a copy.
        return padded.permute(0, 2, 3, 1)[tuple(i.to(images.device) for i in index)].permute(0, 3, 1, 2)
