"""Max-pooling of images in the kernels' layout."""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels.geometry import Pair, pair
from flash_pl.kernels.layout import Images, batch_innermost, empty, order, order_of
from flash_pl.kernels.library import (
    available,
    check_tensors,
    compiled,
    run_in_threads,
    split_range,
    warn_missing,
)

LARGEST_WINDOW = 255  # positions of a window; the kernels number them in one byte


def max_pool2d(x: Tensor, kernel: int | Pair, stride: int | Pair | None = None, padding: int | Pair = 0) -> Tensor:
    """Return the result of ``torch.nn.functional.max_pool2d``, bit for bit.

    Ties, NaN and the gradient are equal too.

    Args:
        x: float32 ``[B, C, H, W]`` on the CPU; a copy is needed unless it is in the kernels' layout.
        kernel: height and width of a window, of at most 255 positions.
        stride: distance of windows; the kernel by default.
        padding: border around the images, at most half the kernel.

    Returns:
        ``[B, C, OH, OW]`` in the kernels' layout.

    Raises:
        ValueError: the window does not fit the images, or the kernels do not support it or the tensor.

    >>> max_pool2d(torch.arange(16.0).view(1, 1, 4, 4), 2).flatten()
    tensor([ 5.,  7., 13., 15.])
    """
    check_tensors(x)
    kernel, padding = pair(kernel), pair(padding)
    stride = kernel if stride is None else pair(stride)
    if x.dim() != 4 or 0 in x.shape:
        raise ValueError(f"images of shape {list(x.shape)} cannot be pooled")
    if kernel[0] * kernel[1] > LARGEST_WINDOW or min(*kernel, *stride) < 1 or min(padding) < 0:
        raise ValueError(
            f"window {kernel} at stride {stride} with padding {padding} is not supported; "
            f"a window has 1 to {LARGEST_WINDOW} positions, a stride is at least 1, a padding at least 0"
        )
    if any(2 * p > k or n + 2 * p < k for n, k, p in zip(x.shape[-2:], kernel, padding, strict=True)):
        raise ValueError(f"window {kernel} with padding {padding} does not fit images of shape {list(x.shape)}")
    if not available():
        warn_missing()
        return F.max_pool2d(x, kernel, stride, padding)
    y: Tensor = _MaxPool.apply(x, kernel, stride, padding)
    return y


class _Window(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in "batch channels height width out_height out_width".split()),
        *((name, ctypes.c_int64) for name in "kernel_h kernel_w stride_h stride_w pad_h pad_w".split()),
        ("inside", Images),
        ("outside", Images),
    ]


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
        native, x = compiled(), batch_innermost(x)
        batch, channels, height, width = x.shape
        out = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip((height, width), kernel, stride, padding, strict=True)]
        y = empty((batch, channels, *out))
        source = torch.empty_strided(y.shape, y.stride(), dtype=torch.uint8)
        sides = order_of(x), order_of(y)
        window = _Window(batch, channels, height, width, *out, *kernel, *stride, *padding, *sides)

        def compute(first: int, last: int) -> None:
            native.pool_forward(ctypes.addressof(window), x.data_ptr(), first, last, y.data_ptr(), source.data_ptr())

        run_in_threads(compute, split_range(channels, torch.get_num_threads()))
        ctx.save_for_backward(source)
        ctx.window, ctx.shape, ctx.strides = window, x.shape, x.stride()
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        native, window = compiled(), ctx.window
        (source,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: torch's gradient can be differentiated again
            places = _places(source, window).flatten(-2)
            flat = dy.new_zeros(*ctx.shape[:-2], window.height * window.width)
            return flat.scatter_add(-1, places, dy.flatten(-2)).view(ctx.shape), None, None, None
        dx = torch.empty_strided(ctx.shape, ctx.strides)
        if order(dy) != order(source):
            dy = torch.empty_strided(source.shape, source.stride()).copy_(dy)

        def compute(first: int, last: int) -> None:
            native.pool_backward(ctypes.addressof(window), dy.data_ptr(), source.data_ptr(), first, last, dx.data_ptr())

        run_in_threads(compute, split_range(window.channels, torch.get_num_threads()))
        return dx, None, None, None


def _places(source: Tensor, window: _Window) -> Tensor:
    """Return the places in the flat images of the largest elements, int64 of the shape of ``source``.

    Args:
        source: their positions in the windows, counted row by row, uint8 ``[..., OH, OW]``.
    """
    position = source.long()
    rows = torch.arange(window.out_height)[:, None] * window.stride_h - window.pad_h + position // window.kernel_w
    columns = torch.arange(window.out_width) * window.stride_w - window.pad_w + position % window.kernel_w
    return rows * window.width + columns
