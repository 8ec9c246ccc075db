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
        # Gathering from flat images by one index a pixel is several times faster than indexing with three tensors.
        index = (rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]).view(count, 1, -1)
        padded = F.pad(images, [self.padding] * 4).flatten(2)
        return padded.gather(2, index.to(images.device).expand(-1, images.shape[1], -1)).view_as(images)
