"""Convolution and linear layers that touch active weights only."""

from ctypes import byref
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flash_pl.kernels.library import library, pointer
from flash_pl.kernels.pattern import Pattern
from flash_pl.kernels.plan import Shape
from flash_pl.kernels.threads import spread, workspace


class Sink:
    """Takes the gradient of a layer's active weights, ``[pattern.count]``, which so never becomes a dense tensor."""

    def __init__(self) -> None:
        self.pattern: Pattern | None = None
        self.gradient: Tensor | None = None

    def add(self, pattern: Pattern, gradient: Tensor) -> None:
        """Add the gradient of one use of the layer."""
        self.pattern = pattern
        self.gradient = gradient if self.gradient is None else self.gradient + gradient

    def step_(self, weight: Tensor, rate: float, decay: float) -> None:
        """A step of plain SGD with what has come."""
        if self.pattern is not None and self.gradient is not None:
            self.pattern.update_(weight, self.gradient, rate, decay)

    def clear(self) -> None:
        """Forget what has come."""
        self.pattern = self.gradient = None


def sparse_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: Pattern,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    sink: Sink | None = None,
) -> Tensor:
    """``torch.nn.functional.conv2d`` of a weight that is 0 outside of a pattern.

    Args:
        x: float32 ``[B, C, H, W]`` on the CPU.
        weight: float32 ``[O, C, kh, kw]``, in the memory format of the pattern's mask.
        bias: float32 ``[O]``.
        sink: gets the gradient of the weight in its place.

    Returns:
        ``[B, O, OH, OW]``, contiguous. Gradients flow to the input, the active weights and the bias; those of the other
        weights are 0.
    """
    return _SparseConv.apply(x, weight, bias, pattern, stride, padding, sink)


def sparse_linear(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern, sink: Sink | None = None) -> Tensor:
    """``torch.nn.functional.linear`` of a weight ``[O, I]`` that is 0 outside of a pattern; x is ``[..., I]``."""
    flat = x.reshape(-1, x.shape[-1], 1, 1)
    return sparse_conv2d(flat, weight, bias, pattern, sink=sink).view(*x.shape[:-1], weight.shape[0])


class _SparseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pattern: Pattern,
        stride: tuple[int, int],
        padding: tuple[int, int],
        sink: Sink | None,
    ) -> Tensor:
        x = x.contiguous()
        kernel = (pattern.shape[2], pattern.shape[3]) if len(pattern.shape) == 4 else (1, 1)
        batch, channels, height, width = x.shape
        shape = Shape(batch, channels, height, width, pattern.shape[0], kernel, stride, padding)
        plan, lib = pattern.plan(shape), library()
        assert lib is not None
        y = torch.empty(batch, pattern.shape[0], *shape.out)
        value = torch.empty(pattern.count)
        lib.flash_pl_gather(pointer(weight), pattern.index.ctypes.data, pattern.count, pointer(value))

        def run(thread: int, first: int, last: int) -> None:
            work = workspace(thread).floats(plan.forward_floats)
            lib.flash_pl_forward(
                byref(plan.geometry),
                byref(plan.out),
                *map(pointer, (value, bias, x)),
                batch,
                first,
                last,
                pointer(y),
                work,
            )

        spread(run, [1] * _groups(batch, plan.geometry))
        ctx.save_for_backward(x, weight, value)
        ctx.pattern, ctx.shape, ctx.has_bias, ctx.sink = pattern, shape, bias is not None, sink
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, by_output = ctx.saved_tensors
        pattern, shape, lib = ctx.pattern, ctx.shape, library()
        assert lib is not None
        plan, dy = pattern.plan(shape), dy.contiguous()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dx = torch.empty_like(x) if needs_x else None
        dvalue = torch.empty(pattern.count) if needs_weight else None
        dbias = torch.empty(shape.outputs) if needs_bias and ctx.has_bias else None
        value = torch.empty(pattern.count) if needs_x else None
        if value is not None:
            lib.flash_pl_gather(pointer(by_output), plan.arrays[4].ctypes.data, pattern.count, pointer(value))
        groups = _groups(shape.batch, plan.geometry)
        work_of = [1 + count for count in plan.out_counts]

        def run(thread: int, row: int, end: int) -> None:
            share = groups * row // shape.outputs, groups * end // shape.outputs
            work = workspace(thread).floats(plan.backward_floats)
            lib.flash_pl_backward(
                byref(plan.geometry),
                byref(plan.out),
                byref(plan.into),
                *map(pointer, (value, x, dy)),
                shape.batch,
                *share,
                row,
                end,
                *map(pointer, (dx, dvalue, dbias)),
                work,
            )

        spread(run, work_of)
        gradient = None
        if dvalue is not None and ctx.sink is not None:
            ctx.sink.add(pattern, dvalue)
        elif dvalue is not None:
            gradient = torch.zeros_like(weight)
            lib.flash_pl_scatter(pointer(dvalue), pattern.index.ctypes.data, pattern.count, pointer(gradient))
        return dx, gradient, dbias, None, None, None, None


def _groups(batch: int, g: Any) -> int:
    return -(-batch // (g.stack * g.lanes))
