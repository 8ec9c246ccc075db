"""Convolutions and linear layers whose time is proportional to the number of active weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels.geometry import ConvShape, Geometry, Packing, Pair, choose_packing, geometry, pair
from flash_pl.kernels.library import (
    Library,
    address,
    available,
    check_saved,
    check_tensors,
    compiled,
    run_in_threads,
    scratch,
    split_range,
    warn_missing,
)
from flash_pl.kernels.pattern import Sink, SparsePattern


def sparse_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: SparsePattern,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    packing: Packing | None = None,
    sink: Sink | None = None,
    all_gradients: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Convolve with the active weights: zero padding, no dilation, one group.

    Inactive weights count as 0 whatever their value, even if the input is infinite, and their gradient is 0. If the
    input contains an infinity or NaN, gradients of other active weights of the layer can be NaN. A backward pass with
    ``create_graph=True`` computes by torch, and can be differentiated again.

    Args:
        x: float32 ``[B, inputs, H, W]`` on the CPU; a memory format other than contiguous costs a copy.
        weight: float32 ``[outputs, inputs, kernel_h, kernel_w]`` in any memory format; its gradient has the same one.
        bias: float32 ``[outputs]`` or None.
        pattern: the active weights, of the weight's shape.
        stride, padding: one number, or one number for the height and one for the width.
        packing: how images share vectors; the fastest way by default.
        sink: takes the gradient of the weight instead of autograd.
        all_gradients: asked in every backward pass whether autograd gets the gradients of inactive weights too, by
            torch. These weights must then be 0.

    Returns:
        ``[B, outputs, OH, OW]``, contiguous.

    Raises:
        ValueError: the shapes do not fit each other, or the kernels do not support the shapes, dtypes or devices.

    >>> x, weight = torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    >>> sparse_conv2d(x, weight, None, SparsePattern(weight > 3)).item()
    12.0
    """
    if torch.is_autocast_enabled("cpu"):
        x = x.float()
    _check_layer(x, weight, bias, pattern, dimensions=4)
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
    return _convolve(x, weight, bias, pattern, shape, packing, sink, all_gradients)


def sparse_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: SparsePattern,
    packing: Packing | None = None,
    sink: Sink | None = None,
    all_gradients: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Return ``x @ weight.T + bias`` with the active weights; the kernels compute a 1x1 convolution of 1x1 images.

    Inactive weights count as 0 whatever their value, and their gradient is 0.

    Args:
        x: float32 ``[..., inputs]`` on the CPU.
        weight: float32 ``[outputs, inputs]`` in any memory format.
        bias: float32 ``[outputs]`` or None.
        pattern: the active weights, of the weight's shape.
        packing: how rows of ``x`` share vectors; the fastest way by default.
        sink: takes the gradient of the weight instead of autograd.
        all_gradients: asked in every backward pass whether autograd gets the gradients of inactive weights too, by
            torch. These weights must then be 0.

    Returns:
        ``[..., outputs]``, contiguous.

    Raises:
        ValueError: the shapes do not fit each other, or the kernels do not support the shapes, dtypes or devices.

    >>> weight = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    >>> sparse_linear(torch.ones(1, 2), weight, None, SparsePattern(weight != 2))
    tensor([[ 1., 12.]])
    """
    if torch.is_autocast_enabled("cpu"):
        x = x.float()
    _check_layer(x, weight, bias, pattern, dimensions=2)
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x {list(x.shape)} does not end with the weight's {weight.shape[1]} inputs")
    if not available():
        warn_missing()
        with torch.autocast("cpu", enabled=False):
            return F.linear(x, pattern.masked(weight), bias)
    if min(weight.shape) < 1:
        raise ValueError(f"a weight {list(weight.shape)} has no elements")
    rows = x.reshape(-1, x.shape[-1], 1, 1)
    shape = ConvShape(x.shape[-1], (1, 1), weight.shape[0], (1, 1), (1, 1), (0, 0))
    y = _convolve(rows, weight, bias, pattern, shape, packing, sink, all_gradients)
    return y.view(*x.shape[:-1], weight.shape[0])


def _check_layer(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern, dimensions: int) -> None:
    """Check the dtypes and devices of all tensors and the shapes of the parameters.

    Raises:
        ValueError: a tensor is not float32 on the CPU, or the shapes do not fit each other.
    """
    check_tensors(x, weight, *(() if bias is None else (bias,)))
    if weight.dim() != dimensions or tuple(weight.shape) != pattern.shape:
        raise ValueError(f"the weight is {list(weight.shape)}, but its pattern is {list(pattern.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"the bias is {list(bias.shape)}, but there are {weight.shape[0]} outputs")


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: SparsePattern,
    shape: ConvShape,
    packing: Packing | None,
    sink: Sink | None,
    all_gradients: Callable[[], bool],
) -> Tensor:
    packing = packing or choose_packing(shape, len(x))
    if not geometry(shape, packing).addressable:
        raise ValueError(f"{shape} needs offsets beyond the kernels' 32 bits")
    # Contiguous before: only an input can be saved for a second differentiation.
    y: Tensor = _SparseConv.apply(x.contiguous(), weight, bias, pattern, shape, packing, sink, all_gradients)
    return y


class _SparseConv(torch.autograd.Function):
    """``[B, C, H, W]`` -> ``[B, O, OH, OW]`` by the kernels; the arguments have been checked."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pattern: SparsePattern,
        shape: ConvShape,
        packing: Packing,
        sink: Sink | None,
        all_gradients: Callable[[], bool],
    ) -> Tensor:
        native = compiled()
        g = geometry(shape, packing)
        value = _gather(native, weight, pattern.index(weight.stride()))
        y = torch.empty(len(x), shape.outputs, *shape.out_size)
        offsets = bias.contiguous() if bias is not None else None
        rows, batch = pattern.rows(g).address, len(x)

        def compute(first: int, last: int) -> None:
            work = scratch(g.forward_floats)
            native.forward(
                *(g.address, rows, value.data_ptr(), address(offsets), x.data_ptr(), batch, first, last),
                *(y.data_ptr(), work),
            )

        run_in_threads(compute, split_range(_groups(g, batch), torch.get_num_threads()))
        ctx.save_for_backward(x, weight, value)
        ctx.pattern, ctx.shape, ctx.g, ctx.sink, ctx.all_gradients = pattern, shape, g, sink, all_gradients
        ctx.x_shape = x.shape
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        native, pattern, g = compiled(), ctx.pattern, ctx.g
        x, weight, by_output = ctx.saved_tensors
        all_gradients = ctx.all_gradients()
        if all_gradients or torch.is_grad_enabled():  # enabled: create_graph=True
            needs = ctx.needs_input_grad[:3]
            gradients = _torchs_gradients(dy, x, weight, None if all_gradients else pattern, ctx.shape, needs)
            return *gradients, None, None, None, None, None
        check_saved(x, ctx.x_shape)
        check_saved(weight, pattern.shape)
        x, dy, batch, threads = x.contiguous(), dy.contiguous(), len(x), torch.get_num_threads()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        value = dx = dvalue = None
        if needs_x:
            # Read the gathered weights, which are adjacent in memory, rather than the weight tensor.
            order = pattern.order_by_input((g.stride_h, g.stride_w))
            value, dx = _gather(native, by_output, order), torch.empty_like(x)
        if needs_weight:
            dvalue = torch.empty(pattern.count)
        dbias = torch.empty(g.outputs) if needs_bias else None
        rows, rows_t = pattern.rows(g).address, pattern.rows_by_input(g).address if needs_x else None
        # A thread computes the gradient of the input for some groups of images, and the gradients of the weights and
        # biases for some output channels over all images: so no sum depends on the number of threads.
        groups = split_range(_groups(g, batch), threads)
        channels = pattern.output_ranges(threads) if threads > 1 else None

        def compute(part: int, _: int) -> None:
            first, last = groups[part] if part < len(groups) else (0, 0)
            row, end = (0, g.outputs) if channels is None else channels[part] if part < len(channels) else (0, 0)
            native.backward(
                *(g.address, rows, rows_t, address(value), x.data_ptr(), dy.data_ptr(), batch, first, last, row, end),
                *(address(dx), address(dvalue), address(dbias), scratch(g.backward_floats)),
            )

        run_in_threads(compute, [(part, part + 1) for part in range(max(len(groups), len(channels or ()), 1))])
        dweight = None
        if dvalue is not None and ctx.sink is not None:
            ctx.sink.add(pattern, dvalue)
        elif dvalue is not None:
            dweight = torch.zeros_like(weight)  # in the memory format of the weight
            index = pattern.index(dweight.stride())
            native.scatter(dvalue.data_ptr(), index.data_ptr(), pattern.count, dweight.data_ptr())
        return dx, dweight, dbias, None, None, None, None, None


def _torchs_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, pattern: SparsePattern | None, shape: ConvShape, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of input, weight and bias by torch, differentiable; None for all weights as ``pattern``."""
    masked = weight if pattern is None else pattern.masked(weight)
    kernel = masked.view(shape.outputs, shape.channels, *shape.kernel)
    stride, padding = list(shape.stride), list(shape.padding)
    settings: tuple[Any, ...] = ([shape.outputs], stride, padding, [1, 1], False, [0, 0], 1, list(needs))
    dx, dkernel, dbias = torch.ops.aten.convolution_backward(dy, x, kernel, *settings)
    if not needs[1]:
        return dx, None, dbias
    dweight = dkernel.reshape(weight.shape)
    return dx, dweight if pattern is None else pattern.masked(dweight), dbias


def _gather(native: Library, weight: Tensor, index: Tensor) -> Tensor:
    value = torch.empty(len(index))
    native.gather(weight.data_ptr(), index.data_ptr(), len(index), value.data_ptr())
    return value


def _groups(g: Geometry, batch: int) -> int:
    """Return how many groups of images that share planes a batch has."""
    return -(-batch // g.group)
