"""Convolutions and linear layers whose time is proportional to the number of active weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels.deferred_norm import DeferredNorm, settled
from flash_pl.kernels.geometry import ConvShape, Pair, pair
from flash_pl.kernels.layout import batch_first, batch_innermost, empty, order_of
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
from flash_pl.kernels.norm import Affine, Normalization, gradients_of, totals
from flash_pl.kernels.pattern import Lists, Sink, SparsePattern


def sparse_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: SparsePattern,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    groups: int = 1,
    sink: Sink | None = None,
    all_gradients: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Convolve with the active weights: zero padding, no dilation.

    Inactive weights count as 0 whatever their value, even if the input is infinite, and their gradient is 0. If the
    input contains an infinity or NaN, gradients of other active weights of the layer can be NaN. A backward pass with
    ``create_graph=True`` computes by torch, and can be differentiated again.

    Args:
        x: float32 ``[B, inputs, H, W]`` on the CPU; a copy is needed unless it is in the kernels' layout
            (``flash_pl.kernels.layout``). A deferred normalization of images is computed while they are read.
        weight: float32 ``[outputs, inputs / groups, kernel_h, kernel_w]`` in any memory format; its gradient has the
            same one.
        bias: float32 ``[outputs]`` or None.
        pattern: the active weights, of the weight's shape.
        stride, padding: one number, or one number for the height and one for the width.
        groups: of channels, as in ``torch.nn.Conv2d``.
        sink: takes the gradient of the weight instead of autograd.
        all_gradients: asked in every backward pass whether autograd gets the gradients of inactive weights too, by
            torch. These weights must then be 0.

    Returns:
        ``[B, outputs, OH, OW]`` in the kernels' layout.

    Raises:
        ValueError: the shapes do not fit each other, or the kernels do not support the shapes, dtypes or devices.

    >>> x, weight = torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    >>> sparse_conv2d(x, weight, None, SparsePattern(weight > 3)).item()
    12.0
    """
    if not (isinstance(x, DeferredNorm) and x.unread and x.normalization.added is None and available()):
        x = settled(x)
    if torch.is_autocast_enabled("cpu"):
        x = x.float()
    _check_layer(x, weight, bias, pattern, dimensions=4)
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"{weight.shape[0]} outputs do not make {groups} groups")
    if x.dim() != 4 or x.shape[1] != groups * weight.shape[1]:
        raise ValueError(f"images {list(x.shape)} are not [B, {groups * weight.shape[1]}, H, W]")
    stride, padding = pair(stride), pair(padding)
    if not available():
        warn_missing()
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x, pattern.masked(weight), bias, stride, padding, groups=groups)
    kernel = weight.shape[2], weight.shape[3]
    shape = ConvShape(x.shape[1], (x.shape[2], x.shape[3]), weight.shape[0], kernel, stride, padding, groups)
    if min(*stride, *weight.shape) < 1 or min(padding) < 0 or min(shape.out_size) < 1:
        raise ValueError(f"{shape} has no output")
    norm = x.normalization if isinstance(x, DeferredNorm) else None
    inputs = (x, None, None) if norm is None else (norm.x, norm.weight, norm.bias)
    y: Tensor = _SparseConv.apply(*inputs, weight, bias, norm, pattern, shape, sink, all_gradients)
    return y


def sparse_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: SparsePattern,
    sink: Sink | None = None,
    all_gradients: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Return ``x @ weight.T + bias`` with the active weights; the kernels compute a 1x1 convolution of 1x1 images.

    Inactive weights count as 0 whatever their value, and their gradient is 0.

    Args:
        x: float32 ``[..., inputs]`` on the CPU; a copy is needed unless it is a matrix whose columns are contiguous.
        weight: float32 ``[outputs, inputs]`` in any memory format.
        bias: float32 ``[outputs]`` or None.
        pattern: the active weights, of the weight's shape.
        sink: takes the gradient of the weight instead of autograd.
        all_gradients: asked in every backward pass whether autograd gets the gradients of inactive weights too, by
            torch. These weights must then be 0.

    Returns:
        ``[..., outputs]``; a matrix with contiguous columns, or else contiguous.

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
    rows = x.reshape(-1, x.shape[-1])[:, :, None, None]
    shape = ConvShape(x.shape[-1], (1, 1), weight.shape[0], (1, 1), (1, 1), (0, 0))
    y: Tensor = _SparseConv.apply(rows, None, None, weight, bias, None, pattern, shape, sink, all_gradients)
    y = y.flatten(1)
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], weight.shape[0]).contiguous()


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


class _SparseConv(torch.autograd.Function):
    """``[B, C, H, W]`` -> ``[B, O, OH, OW]`` by the kernels; the arguments have been checked.

    With ``norm`` the convolution is of the normalized ``x``, and ``norm_weight`` and ``norm_bias`` get gradients too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        norm: Normalization | None,
        pattern: SparsePattern,
        shape: ConvShape,
        sink: Sink | None,
        all_gradients: Callable[[], bool],
    ) -> Tensor:
        native = compiled()
        images = batch_innermost(x)
        batch = x.shape[0]
        y = empty((batch, shape.outputs, *shape.out_size))
        value = _gather(native, weight, pattern.index(weight.stride()))
        offsets, affine = (None if bias is None else bias.contiguous()), norm.affine() if norm is not None else None
        for lists in pattern.lists(shape, batch, False, native.machine):
            multiply(native, lists, value, offsets, images, affine, y)
        statistics = (None, None) if norm is None else (norm.mean, norm.variance)
        ctx.save_for_backward(x, norm_weight, norm_bias, *statistics, weight, bias, value)
        # Of a copy the kernels made autograd knows nothing; it saves the input, which may be differentiated twice.
        ctx.images = images if images is not x else None
        ctx.pattern, ctx.shape, ctx.sink, ctx.all_gradients = pattern, shape, sink, all_gradients
        ctx.norm = None if norm is None else (norm.epsilon, norm.limits)
        ctx.x_shape = x.shape
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        native, pattern, shape = compiled(), ctx.pattern, ctx.shape
        x, norm_weight, norm_bias, mean, variance, weight, bias, value = ctx.saved_tensors
        check_saved(x, ctx.x_shape)
        check_saved(weight, pattern.shape)
        norm = None
        if ctx.norm is not None:
            epsilon, limits = ctx.norm
            norm = Normalization(x, norm_weight, norm_bias, mean, variance, epsilon, limits=limits)
        all_gradients, (needs_x, needs_gamma, needs_beta, needs_weight, needs_bias) = (
            ctx.all_gradients(),
            ctx.needs_input_grad[:5],
        )
        none = (None,) * 5
        if all_gradients or torch.is_grad_enabled():  # enabled: create_graph=True
            layer = _by_torch(pattern, shape, all_gradients, norm)
            return *gradients_of(layer, (x, norm_weight, norm_bias, weight, bias), dy), *none
        images, dy, batch = x if ctx.images is None else ctx.images, batch_innermost(dy), x.shape[0]
        affine = norm.affine() if norm is not None else None
        dx = dgamma = dbeta = dweight = dbias = None
        if needs_weight:
            dvalue = torch.zeros(pattern.count)
            for lists in pattern.lists(shape, batch, False, native.machine):
                correlate(native, lists, images, affine, dy, dvalue)
            if ctx.sink is not None:
                ctx.sink.add(pattern, dvalue)
            else:
                dweight = torch.zeros_like(weight)  # in the memory format of the weight
                index = pattern.index(dweight.stride())
                native.scatter(dvalue.data_ptr(), index.data_ptr(), pattern.count, dweight.data_ptr())
        if needs_bias:
            dbias = totals(dy)
        if needs_x or needs_gamma or needs_beta:
            dx = empty(ctx.x_shape)
            for lists in pattern.lists(shape, batch, True, native.machine):
                multiply(native, lists, value, None, dy, None, dx)
        if norm is not None and dx is not None:
            dx, dgamma, dbeta, _ = norm.gradients(None, dx, needs_x, needs_added=False, in_place=True)
        if dx is not None and ctx.images is not None:
            dx = batch_first(dx)  # as the input
        return dx, dgamma, dbeta, dweight, dbias, *none


def multiply(
    native: Library,
    lists: Lists,
    value: Tensor,
    bias: Tensor | None,
    source: Tensor,
    affine: Affine | None,
    target: Tensor,
) -> None:
    """Compute the images of ``target`` that ``lists`` are for; ``value`` is by number."""
    each = lists.each
    in_order = _gather(native, value, lists.number)
    from_place, to_place = (_place(tensor, lists.first) for tensor in (source, target))
    from_order, to_order = order_of(source).address, order_of(target).address
    function = affine.address if affine is not None else None

    def compute(first: int, last: int) -> None:
        native.multiply(
            *(each.address, lists.address, in_order.data_ptr(), address(bias), from_place),
            *(from_order, function, first, last, to_place, to_order),
            scratch(each.scratch),
        )

    run_in_threads(compute, split_range(each.tiles, torch.get_num_threads()))


def correlate(
    native: Library, lists: Lists, source: Tensor, affine: Affine | None, target: Tensor, gradient: Tensor
) -> None:
    """Add to ``gradient``, by number, what the images that ``lists`` are for contribute.

    A thread computes the gradients of some weights over all images: so no sum depends on the number of threads.
    """
    each = lists.each
    in_order = torch.zeros_like(gradient)
    from_place, to_place = (_place(tensor, lists.first) for tensor in (source, target))
    from_order, to_order = order_of(source).address, order_of(target).address
    function, parts = affine.address if affine is not None else None, torch.get_num_threads()

    def compute(part: int, _: int) -> None:
        native.correlate(
            *(each.address, lists.address, from_place, from_order, function, to_place),
            *(to_order, part, parts, in_order.data_ptr(), scratch(each.scratch)),
        )

    run_in_threads(compute, [(part, part + 1) for part in range(parts)])
    native.scatter_add(in_order.data_ptr(), lists.number.data_ptr(), in_order.shape[0], gradient.data_ptr())


def _place(images: Tensor, first: int) -> int:
    """Return the address of an image."""
    return images.data_ptr() + first * images.element_size()


def _gather(native: Library, weight: Tensor, index: Tensor) -> Tensor:
    count = index.shape[0]
    value = torch.empty(count)
    native.gather(weight.data_ptr(), index.data_ptr(), count, value.data_ptr())
    return value


def _by_torch(
    pattern: SparsePattern, shape: ConvShape, all_gradients: bool, norm: Normalization | None
) -> Callable[..., Tensor]:
    """Return the layer as a function by torch, with a gradient of the active weights or of all weights."""

    def layer(
        x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        if norm is not None:
            x = norm.function_of_tensors()(x, norm_weight, norm_bias)
        masked = weight if all_gradients else pattern.masked(weight)
        kernel = masked.view(shape.outputs, shape.channels // shape.groups, *shape.kernel)
        return F.conv2d(x, kernel, bias, shape.stride, shape.padding, groups=shape.groups)

    return layer
