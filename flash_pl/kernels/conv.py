"""Convolution whose time follows the number of active weights."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from flash_pl.kernels.geometry import ConvShape, Geometry, Pair, Plan, geometry, pair
from flash_pl.kernels.library import Library, available, check_layer, library, scratch, shares, spread, warn_missing
from flash_pl.kernels.pattern import SparsePattern
from flash_pl.kernels.plan import best_plan
from flash_pl.kernels.sink import Sink


def address(tensor: Tensor | None) -> int | None:
    """Of the first element; None for no tensor."""
    return None if tensor is None else tensor.data_ptr()


class SparseConv(torch.autograd.Function):
    """``[B, C, H, W]`` -> ``[B, O, OH, OW]`` in C; its arguments have been checked."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pattern: SparsePattern,
        shape: ConvShape,
        plan: Plan,
        sink: Sink | None,
    ) -> Tensor:
        native = compiled()
        g, x = geometry(shape, plan), x.contiguous()
        value = gathered(native, weight, pattern.index(weight.stride()))
        y = torch.empty(len(x), shape.outputs, *shape.out_size)
        offsets = bias.contiguous() if bias is not None else None
        rows, batch = pattern.rows(g).address, len(x)

        def compute(first: int, last: int) -> None:
            work = scratch(g.forward_floats)
            native.forward(
                *(g.address, rows, value.data_ptr(), address(offsets), x.data_ptr(), batch, first, last),
                *(y.data_ptr(), work),
            )

        spread(compute, shares(groups(g, batch), torch.get_num_threads()))
        ctx.save_for_backward(x, weight, value)
        ctx.pattern, ctx.g, ctx.sink = pattern, g, sink
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        native, pattern, g = compiled(), ctx.pattern, ctx.g
        x, weight, by_output = ctx.saved_tensors
        dy, batch, threads = dy.contiguous(), len(x), torch.get_num_threads()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        value = dx = dvalue = None
        if needs_x:
            # From the gathered weights, not from the weight: they lie together.
            order = pattern.order_by_input((g.stride_h, g.stride_w))
            value, dx = gathered(native, by_output, order), torch.empty_like(x)
        if needs_weight:
            dvalue = torch.empty(pattern.count)
        dbias = torch.empty(g.outputs) if needs_bias else None
        rows, rows_t = pattern.rows(g).address, pattern.rows_by_input(g).address if needs_x else None
        work_groups, channels = shares(groups(g, batch), threads), pattern.shares(threads) if threads > 1 else None

        def compute(part: int, _: int) -> None:
            first, last = work_groups[part] if part < len(work_groups) else (0, 0)
            row, end = (0, g.outputs) if channels is None else channels[part] if part < len(channels) else (0, 0)
            native.backward(
                *(g.address, rows, rows_t, address(value), x.data_ptr(), dy.data_ptr(), batch, first, last, row, end),
                *(address(dx), address(dvalue), address(dbias), scratch(g.backward_floats)),
            )

        spread(compute, [(part, part + 1) for part in range(max(len(work_groups), len(channels or ()), 1))])
        dweight = None
        if dvalue is not None and ctx.sink is not None:
            ctx.sink.add(pattern, dvalue)
        elif dvalue is not None:
            dweight = torch.zeros_like(weight)  # in the weight's own memory format
            index = pattern.index(dweight.stride())
            native.scatter(dvalue.data_ptr(), index.data_ptr(), pattern.count, dweight.data_ptr())
        return dx, dweight, dbias, None, None, None, None


def compiled() -> Library:
    native = library()
    assert native is not None, "the caller checks available()"
    return native


def gathered(native: Library, weight: Tensor, index: Tensor) -> Tensor:
    value = torch.empty(len(index))
    native.gather(weight.data_ptr(), index.data_ptr(), len(index), value.data_ptr())
    return value


def groups(g: Geometry, batch: int) -> int:
    return -(-batch // g.group)


def sparse_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: SparsePattern,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    plan: Plan | None = None,
    sink: Sink | None = None,
) -> Tensor:
    """A convolution over the active weights: zero padding, no dilation, one group.

    Weights outside of the pattern count as zero, whatever they hold, even against an infinite input; their gradient is
    zero. Where the input is infinite or NaN, gradients of other weights of the same layer may be NaN too.

    Args:
        x: float32 ``[B, inputs, H, W]`` on the CPU; another memory format than contiguous costs a copy.
        weight: float32 ``[outputs, inputs, kernel_h, kernel_w]``, of any memory format; its gradient has the same.
        bias: float32 ``[outputs]`` or None.
        pattern: of the weight's shape.
        stride, padding: one number, or one for height and one for width.
        plan: how images share vectors; by default the fastest.
        sink: takes the gradient of the weight in place of autograd.

    Returns:
        ``[B, outputs, OH, OW]``, contiguous.

    Raises:
        ValueError: shapes, types or devices that the kernels do not support.
    """
    if torch.is_autocast_enabled("cpu"):
        x = x.float()
    check_layer(x, weight, bias, pattern, dimensions=4)
    if x.dim() != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"images {list(x.shape)} are not [B, {weight.shape[1]}, H, W]")
    stride, padding = pair(stride), pair(padding)
    if not available():
        warn_missing()
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x, pattern.masked(weight), bias, stride, padding)
    height, width, kernel_h, kernel_w = *x.shape[2:], *weight.shape[2:]
    shape = ConvShape(x.shape[1], (height, width), weight.shape[0], (kernel_h, kernel_w), stride, padding)
    if min(*stride, *weight.shape) < 1 or min(padding) < 0 or min(shape.out_size) < 1:
        raise ValueError(f"{shape} has no output")
    return convolved(x, weight, bias, pattern, shape, plan, sink)


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: SparsePattern,
    shape: ConvShape,
    plan: Plan | None,
    sink: Sink | None,
) -> Tensor:
    """Whatever is left to check, then the kernels."""
    plan = plan or best_plan(shape, len(x))
    if not geometry(shape, plan).addressable:
        raise ValueError(f"{shape} is beyond the kernels' offsets of 32 bits")
    y: Tensor = SparseConv.apply(x, weight, bias, pattern, shape, plan, sink)
    return y
