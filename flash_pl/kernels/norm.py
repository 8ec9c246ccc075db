"""Batch normalization in training, for contiguous images as the sparse convolutions return them."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from flash_pl.kernels.library import (
    address,
    available,
    check_saved,
    check_tensors,
    compiled,
    run_in_threads,
    split_range,
    warn_missing,
)


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize every channel over the batch, then scale and shift it (Ioffe and Szegedy, ICML 2015, algorithm 1).

    Args:
        x: float32 ``[B, C, ...]`` on the CPU; a memory format other than contiguous costs a copy.
        weight, bias: float32 ``[C]``.
        epsilon: added to the variance.

    Returns:
        The normalized ``x``, contiguous; and each channel's mean and biased variance over the batch, both ``[C]``. Only
        the normalized ``x`` is differentiable.

    Raises:
        ValueError: the shapes do not fit each other, a channel has only one value, or a dtype or device is wrong.

    >>> x = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    >>> y, mean, variance = batch_norm(x, torch.ones(1), torch.zeros(1), epsilon=0)
    >>> y.flatten().tolist(), mean.item(), variance.item()
    ([-1.0, 1.0], 2.0, 1.0)
    """
    check_tensors(x, weight, bias)
    if x.dim() < 2 or weight.shape != (x.shape[1],) or bias.shape != weight.shape:
        raise ValueError(f"weight {list(weight.shape)} and bias {list(bias.shape)} do not fit images {list(x.shape)}")
    if x.numel() <= x.shape[1]:
        raise ValueError(f"a batch of shape {list(x.shape)} has less than two values per channel")
    if not available():
        warn_missing()
        y, mean, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, epsilon)
        return y, mean, inverse.pow(-2) - epsilon
    results: tuple[Tensor, Tensor, Tensor] = _BatchNorm.apply(x.contiguous(), weight.contiguous(), bias, epsilon)
    return results


class _Norm(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("pixels", ctypes.c_int64),
        ("epsilon", ctypes.c_float),
    ]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        native, bias = compiled(), bias.contiguous()
        norm = _Norm(len(x), x.shape[1], x.shape[2:].numel(), epsilon)
        y, mean, variance = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)

        def compute(first: int, last: int) -> None:
            native.norm_forward(
                *(ctypes.addressof(norm), x.data_ptr(), weight.data_ptr(), bias.data_ptr(), first, last),
                *(y.data_ptr(), mean.data_ptr(), variance.data_ptr()),
            )

        run_in_threads(compute, split_range(norm.channels, torch.get_num_threads()))
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        ctx.norm, ctx.x_shape = norm, x.shape
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        native, norm = compiled(), ctx.norm
        x, weight, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: torch's gradients can be differentiated again
            statistics = None, None, mean, (variance + norm.epsilon).rsqrt()
            needs = list(ctx.needs_input_grad[:3])
            gradients = torch.ops.aten.native_batch_norm_backward(dy, x, weight, *statistics, True, norm.epsilon, needs)
            return *gradients, None
        check_saved(x, ctx.x_shape)
        check_saved(weight, mean.shape)
        x, weight, dy = x.contiguous(), weight.contiguous(), dy.contiguous()
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dweight, dbias = torch.empty_like(weight), torch.empty_like(weight)

        def compute(first: int, last: int) -> None:
            native.norm_backward(
                *(ctypes.addressof(norm), x.data_ptr(), dy.data_ptr(), weight.data_ptr(), mean.data_ptr()),
                *(variance.data_ptr(), first, last, address(dx), dweight.data_ptr(), dbias.data_ptr()),
            )

        run_in_threads(compute, split_range(norm.channels, torch.get_num_threads()))
        return dx, dweight, dbias, None
