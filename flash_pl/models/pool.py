"""Overlapping max-pooling that is cheap to evaluate on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaxPool3x3(nn.Module):
    """Max-pool of 3x3 windows at stride 1: ``[..., C, H, W]`` -> ``[..., C, H-2, W-2]``.

    The maximum of a window is the maximum of its rows' maxima. Four vectorised maxima of whole images return the values
    of :func:`torch.nn.functional.max_pool2d` several times faster on a CPU, where that function walks window by window
    to remember where each maximum came from. Only the backward pass needs that, so this shortcut is for evaluation.
    """

    def forward(self, images: Tensor) -> Tensor:
        """The pooled images."""
        if torch.is_grad_enabled() or images.device.type != "cpu":
            return F.max_pool2d(images, kernel_size=3, stride=1)
        rows = torch.maximum(torch.maximum(images[..., :-2], images[..., 1:-1]), images[..., 2:])
        return torch.maximum(torch.maximum(rows[..., :-2, :], rows[..., 1:-1, :]), rows[..., 2:, :])
