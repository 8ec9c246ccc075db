"""Convolution whose time follows the number of active weights."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flash_pl.kernels.geometry import ConvShape, Geometry, Pair, Plan, geometry
from flash_pl.kernels.library import Library, library
from flash_pl.kernels.pattern import SparsePattern
from flash_pl.kernels.plan import best_plan
from flash_pl.kernels.threads import scratch, shares, spread


def address(tensor: Tensor | None) -> int | None:
    """Of the first element; None for no tensor."""
    return None if tensor is None else tensor.data_ptr()


class SparseConv(torch.autograd.Function):
    """``[B, C, H, W]`` -> ``[B, O, OH, OW]`` in C; its arguments have been checked."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern, shape: ConvShape, plan: Plan
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
        ctx.save_for_backward(x, weight)
        ctx.pattern, ctx.g, ctx.bias = pattern, g, bias is not None
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        native, pattern, g = compiled(), ctx.pattern, ctx.g
        x, weight = ctx.saved_tensors
        dy, batch, threads = dy.contiguous(), len(x), torch.get_num_threads()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        value = dx = dvalue = None
        if needs_x:
            stride = (g.stride_h, g.stride_w)
            value, dx = gathered(native, weight, pattern.index_by_input(weight.stride(), stride)), torch.empty_like(x)
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
        if dvalue is not None:
            dweight = torch.zeros_like(weight)  # in the weight's own memory format
            index = pattern.index(dweight.stride())
            native.scatter(dvalue.data_ptr(), index.data_ptr(), pattern.count, dweight.data_ptr())
        return dx, dweight, dbias, None, None, None


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
) -> Tensor:
    shape = ConvShape(
        channels=x.shape[1],
        size=(x.shape[2], x.shape[3]),
        outputs=weight.shape[0],
        kernel=(weight.shape[2], weight.shape[3]),
        stride=pair(stride),
        padding=pair(padding),
    )
    y: Tensor = SparseConv.apply(x, weight, bias, pattern, shape, plan or best_plan(shape, len(x)))
    return y


def pair(value: int | Pair) -> Pair:
    """One number for both axes, or a number for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
