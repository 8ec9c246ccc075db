"""Max-pooling that remembers where each maximum came from in a byte."""

import ctypes
from ctypes import byref
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flash_pl.kernels.library import library, pointer
from flash_pl.kernels.threads import spread, workspace


class _Window(ctypes.Structure):
    """``window`` of the C side."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("planes height width out_height out_width kernel_h kernel_w stride_h stride_w pad_h pad_w").split()
    ]


def max_pool2d(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """``torch.nn.functional.max_pool2d``, bit for bit, gradient included; ``kernel`` has at most 256 places.

    Args:
        x: float32 ``[B, C, H, W]`` on the CPU.

    Returns:
        ``[B, C, OH, OW]``, contiguous.
    """
    return _MaxPool.apply(x, kernel, stride, padding)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        x = x.contiguous()
        out = [
            (side + 2 * pad - size) // step + 1
            for side, size, step, pad in zip(x.shape[2:], kernel, stride, padding, strict=True)
        ]
        planes, lib = x.shape[0] * x.shape[1], library()
        assert lib is not None
        window = _Window(planes, *x.shape[2:], *out, *kernel, *stride, *padding)
        y, source = torch.empty(*x.shape[:2], *out), torch.empty(*x.shape[:2], *out, dtype=torch.uint8)
        floats = _floats(x, kernel, stride)

        def run(thread: int, first: int, last: int) -> None:
            work = workspace(thread).floats(floats)
            lib.flash_pl_pool_forward(byref(window), pointer(x), first, last, pointer(y), pointer(source), work)

        spread(run, [1] * planes)
        ctx.save_for_backward(source)
        ctx.window, ctx.shape, ctx.floats = window, x.shape, floats
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (source,), lib, dy = ctx.saved_tensors, library(), dy.contiguous()
        assert lib is not None
        dx = torch.empty(ctx.shape)

        def run(thread: int, first: int, last: int) -> None:
            work = workspace(thread).floats(ctx.floats)
            lib.flash_pl_pool_backward(byref(ctx.window), pointer(dy), pointer(source), first, last, pointer(dx), work)

        spread(run, [1] * (ctx.shape[0] * ctx.shape[1]))
        return dx, None, None, None


def _floats(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> int:
    """Scratch memory of either direction."""
    wide = x.shape[3] + kernel[1] + 64
    return (x.shape[2] + 2 * kernel[0] + stride[1] + 8) * wide * 2
