"""The kernels' layout of images: the batch is innermost, so that a vector holds the same pixel of several images."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flash_pl.kernels.library import compiled

PAGE = 1024  # floats
LANES = 16  # floats of the widest vector


class Images(ctypes.Structure):
    """The C structure of the same name: floats from channel to channel, from row to row, from pixel to pixel."""

    _fields_ = [(name, ctypes.c_int64) for name in ("channel", "row", "pixel")]
    channel: int
    row: int
    pixel: int
    address: int


def empty(shape: Sequence[int]) -> Tensor:
    """Return uninitialized float32 images ``[B, C, H, W]`` in the kernels' layout.

    As a rule a channel's pixels follow each other, so that ``flatten(1)`` needs no copy. If channels would be whole
    pages apart, the same pixel of all channels would compete for the same places of the cache; then the channels of a
    pixel follow each other.

    >>> empty([32, 3, 8, 8]).stride(), empty([32, 64, 8, 8]).stride()
    ((1, 2048, 256, 32), (1, 32, 16384, 2048))
    """
    return torch.empty_strided(shape, _strides(*shape))


@lru_cache(maxsize=1024)
def _strides(batch: int, channels: int, height: int, width: int) -> tuple[int, int, int, int]:
    if channels >= 2 * LANES and height * width > 1 and batch % LANES == 0 and height * width * batch % PAGE == 0:
        return 1, batch, width * channels * batch, channels * batch
    return 1, height * width * batch, width * batch, batch


def is_batch_innermost(x: Tensor) -> bool:
    """Return whether images ``[B, C, H, W]`` are in the kernels' layout, in either order of channels and pixels.

    >>> is_batch_innermost(empty([4, 3, 8, 8])), is_batch_innermost(torch.empty(4, 3, 8, 8))
    (True, False)
    """
    return order(x) is not None


def order(x: Tensor) -> Images | None:
    """Return how channels, rows and pixels lie, or None if the batch is not innermost or there are gaps."""
    return _order(*x.shape, *x.stride())


@lru_cache(maxsize=4096)
def _order(
    batch: int, channels: int, height: int, width: int, between: int, channel: int, row: int, pixel: int
) -> Images | None:
    if batch > 1 and between != 1:
        return None
    # A dimension of size 1 may have any stride.
    for strides in (
        (height * width * batch, width * batch, batch),
        (batch, width * channels * batch, channels * batch),
    ):
        sizes = (channels, height, width)
        if all(size == 1 or own == want for size, own, want in zip(sizes, (channel, row, pixel), strides, strict=True)):
            images = Images(*strides)
            images.address = ctypes.addressof(images)
            return images
    return None


def order_of(x: Tensor) -> Images:
    """Return how channels, rows and pixels of images in the kernels' layout lie."""
    images = order(x)
    assert images is not None, "the caller must use batch_innermost"
    return images


def batch_innermost(x: Tensor) -> Tensor:
    """Return images ``[B, C, H, W]`` in the kernels' layout: ``x`` itself if it has it, otherwise a copy.

    The copy is not differentiable.
    """
    if order(x) is not None:
        return x
    x, y = x.contiguous(), empty(x.shape)
    if x.numel():
        _, channel, _, pixel = y.stride()
        sizes = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
        compiled().interleave(x.data_ptr(), *sizes, channel, pixel, y.data_ptr())
    return y


class _Contiguous(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return batch_first(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


def contiguous(x: Tensor) -> Tensor:
    """Return a contiguous copy of images in the kernels' layout; differentiable.

    >>> contiguous(empty([2, 3, 4, 4])).is_contiguous()
    True
    """
    y: Tensor = _Contiguous.apply(x)
    return y


def batch_first(x: Tensor) -> Tensor:
    """Return contiguous images ``[B, C, H, W]``; faster than ``x.contiguous()`` for images in the kernels' layout.

    The copy is not differentiable.
    """
    images = order(x)
    if x.is_contiguous() or images is None or not x.numel():
        return x.contiguous()
    y = torch.empty(x.shape)
    sizes = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    compiled().separate(x.data_ptr(), *sizes, images.channel, images.pixel, y.data_ptr())
    return y
