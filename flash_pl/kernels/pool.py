"""Max-pooling with vectorized forward and backward passes, for contiguous images."""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels.geometry import VECTOR, Pair, pair
from flash_pl.kernels.library import (
    available,
    check_tensors,
    compiled,
    run_in_threads,
    scratch,
    split_range,
    warn_missing,
)

LARGEST_WINDOW = 255  # positions of a window; the kernels number them in one byte


def max_pool2d(x: Tensor, kernel: int | Pair, stride: int | Pair | None = None, padding: int | Pair = 0) -> Tensor:
    """Return the result of ``torch.nn.functional.max_pool2d``, bit for bit.

    Ties, NaN and the gradient are equal too.

    Args:
        x: float32 ``[..., H, W]`` on the CPU.
        kernel: height and width of a window, of at most 255 positions.
        stride: distance of windows; the kernel by default.
        padding: border around the images, at most half the kernel.

    Returns:
        ``[..., OH, OW]``, contiguous.

    Raises:
        ValueError: the window does not fit the images, or the kernels do not support it or the tensor.

    >>> max_pool2d(torch.arange(16.0).view(4, 4), 2)
    tensor([[ 5.,  7.],
            [13., 15.]])
    """
    check_tensors(x)
    kernel, padding = pair(kernel), pair(padding)
    stride = kernel if stride is None else pair(stride)
    if x.dim() < 2 or 0 in x.shape:
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
        (name, ctypes.c_int64)
        for name in ("planes height width out_height out_width kernel_h kernel_w stride_h stride_w pad_h pad_w".split())
    ]


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
        native, x = compiled(), x.contiguous()
        height, width = x.shape[-2:]
        out = tuple(
            (n + 2 * p - k) // s + 1 for n, k, s, p in zip((height, width), kernel, stride, padding, strict=True)
        )
        planes = x.shape[:-2].numel()
        window = _Window(planes, height, width, *out, *kernel, *stride, *padding)
        y = torch.empty(*x.shape[:-2], *out)
        source = torch.empty(y.shape, dtype=torch.uint8)
        row = out[1] + kernel[1] + 2 * VECTOR
        floats = row * (stride[1] + 2 * kernel[0] + 3)

        def compute(first: int, last: int) -> None:
            native.pool_forward(
                ctypes.addressof(window), x.data_ptr(), first, last, y.data_ptr(), source.data_ptr(), scratch(floats)
            )

        run_in_threads(compute, split_range(planes, torch.get_num_threads()))
        ctx.save_for_backward(source)
        ctx.window, ctx.shape = window, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        native, window = compiled(), ctx.window
        (source,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: torch's gradient can be differentiated again
            places = _places(source, window).flatten(-2)
            flat = dy.new_zeros(*ctx.shape[:-2], window.height * window.width)
            return flat.scatter_add(-1, places, dy.flatten(-2)).view(ctx.shape), None, None, None
        dy, dx = dy.contiguous(), torch.empty(ctx.shape)

        def compute(first: int, last: int) -> None:
            native.pool_backward(ctypes.addressof(window), dy.data_ptr(), source.data_ptr(), first, last, dx.data_ptr())

        run_in_threads(compute, split_range(window.planes, torch.get_num_threads()))
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
