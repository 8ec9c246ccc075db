"""Batch normalization of images in the kernels' layout, with what follows it: an addition, a ReLU."""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flash_pl.kernels.layout import batch_innermost, order, order_of
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

Limits = tuple[float, float]  # what a result is clamped to; NaN is no limit
NO_LIMITS: Limits = (math.nan, math.nan)
RELU: Limits = (0.0, math.nan)
RELU6: Limits = (0.0, 6.0)


@dataclass(frozen=True)
class Normalization:
    """clamp((x - mean) / sqrt(variance + epsilon) * weight + bias + added), by channel.

    Args:
        x: float32 ``[B, C, H, W]`` on the CPU.
        weight, bias: float32 ``[C]``.
        mean, variance: float32 ``[C]``. If they are those of the batch, ``moments(x)``, the gradients are those of
            batch normalization (Ioffe and Szegedy, ICML 2015, algorithm 1).
        epsilon: added to the variance.
        added: of the shape of ``x``, for example the other branch of a residual block.
        limits: least and greatest result, ``RELU`` or ``RELU6``.

    Raises:
        ValueError: the shapes do not fit each other, a channel has only one value, or a dtype or device is wrong.

    >>> x = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    >>> Normalization(x, torch.ones(1), torch.zeros(1), *moments(x), epsilon=0, limits=RELU).compute().flatten()
    tensor([0., 1.])
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    epsilon: float = 1e-5
    added: Tensor | None = None
    limits: Limits = NO_LIMITS

    def __post_init__(self) -> None:
        _check_images(self.x)
        channels = self.weight, self.bias, self.mean, self.variance
        check_tensors(*channels, *(() if self.added is None else (self.added,)))
        if any(each.shape != (self.x.shape[1],) for each in channels):
            shapes = ", ".join(str(list(each.shape)) for each in channels)
            raise ValueError(f"weight, bias, mean and variance {shapes} do not fit images {list(self.x.shape)}")
        if self.added is not None and self.added.shape != self.x.shape:
            raise ValueError(f"{list(self.added.shape)} cannot be added to images {list(self.x.shape)}")
        if self.x.numel() <= self.x.shape[1]:
            raise ValueError(f"a batch of shape {list(self.x.shape)} has less than two values per channel")

    @property
    def clamps(self) -> bool:
        return not all(map(math.isnan, self.limits))

    def plus(self, other: Tensor) -> "Normalization":
        """Return the same with ``other`` added."""
        return replace(self, added=other)

    def clamped(self, limits: Limits) -> "Normalization":
        """Return the same with a clamped result."""
        return replace(self, limits=limits)

    def compute(self) -> Tensor:
        """Return the result, differentiable, in the kernels' layout."""
        if not available():
            warn_missing()
            return self.by_torch()
        return self.node(self.values)

    def node(self, make: Callable[[], Tensor]) -> Tensor:
        """Return what ``make`` returns, which must be the result, with a history."""
        y: Tensor = _Node.apply(self, make, self.x, self.weight, self.bias, self.added)
        return y

    @torch.no_grad()
    def values(self) -> Tensor:
        """Return the result without a history."""
        native, x = compiled(), batch_innermost(self.x)
        y, each, added = torch.empty_like(x), norm_of(x, self.epsilon, self.limits), self.added
        if added is not None and order(added) != order(x):
            added = torch.empty_like(x).copy_(added)
        channels = [each.contiguous() for each in (self.weight, self.bias, self.mean, self.variance)]

        def compute(first: int, last: int) -> None:
            native.norm_forward(
                *(ctypes.addressof(each), x.data_ptr(), *(channel.data_ptr() for channel in channels)),
                *(address(added), first, last, y.data_ptr()),
            )

        run_in_threads(compute, split_range(x.shape[1], torch.get_num_threads()))
        return y

    @torch.no_grad()
    def gradients(
        self, y: Tensor | None, dy: Tensor, needs_x: bool, needs_added: bool, in_place: bool = False
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        """Return the gradients of ``x``, weight, bias and ``added``.

        Args:
            y: the result, if something was added.
            dy: its gradient.
            needs_x, needs_added: whether these gradients are needed.
            in_place: write the gradient of ``x`` to ``dy``.
        """
        native, images = compiled(), batch_innermost(self.x)
        if order(dy) != order(images):
            dy = torch.empty_like(images).copy_(dy)
        each = norm_of(images, self.epsilon, self.limits)
        dx = (dy if in_place else torch.empty_like(images)) if needs_x else None
        dadded = (torch.empty_like(images) if self.clamps else dy) if needs_added else None
        channels = [each.contiguous() for each in (self.weight, self.bias, self.mean, self.variance)]
        dweight, dbias = torch.empty_like(channels[0]), torch.empty_like(channels[0])
        passed = dadded if dadded is not dy else None

        def compute(first: int, last: int) -> None:
            native.norm_backward(
                *(ctypes.addressof(each), images.data_ptr(), address(y), dy.data_ptr()),
                *(channel.data_ptr() for channel in channels),
                *(first, last, address(dx), address(passed), dweight.data_ptr(), dbias.data_ptr()),
            )

        run_in_threads(compute, split_range(images.shape[1], torch.get_num_threads()))
        return dx, dweight, dbias, dadded

    def by_torch(self) -> Tensor:
        """Return the result by torch; it can be differentiated again and again."""
        return self.function_of_tensors()(self.x, self.weight, self.bias, self.added)

    def function_of_tensors(self) -> Callable[..., Tensor]:
        """Return the function of ``x``, weight, bias and ``added`` that ``by_torch`` computes."""
        low, high = (None if math.isnan(limit) else limit for limit in self.limits)

        def function(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None = None) -> Tensor:
            y = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, self.epsilon)[0]
            y = y if added is None else y + added
            return y.clamp(low, high) if self.clamps else y

        return function

    def affine(self) -> "Affine":
        """Return the same as a function that the kernels apply while they copy ``x``; nothing is added."""
        factor = self.weight.detach() / (self.variance + self.epsilon).sqrt()
        return Affine(self.mean.contiguous(), factor.contiguous(), self.bias.detach().contiguous(), self.limits)


class _Affine(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("center", "factor", "offset")),
        *((name, ctypes.c_float) for name in ("low", "high")),
    ]


class Affine:
    """clamp((x - center) factor + offset), by channel (``affine`` in ``csrc/kernels.h``)."""

    def __init__(self, center: Tensor, factor: Tensor, offset: Tensor, limits: Limits) -> None:
        self._tensors = center, factor, offset
        self._affine = _Affine(*(tensor.data_ptr() for tensor in self._tensors), *limits)
        self.address = ctypes.addressof(self._affine)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of every channel over the batch, both ``[C]``; not differentiable.

    Args:
        x: float32 ``[B, C, H, W]`` on the CPU; a copy is needed unless it is in the kernels' layout.

    Raises:
        ValueError: ``x`` has another dtype, device or number of dimensions, or no values.

    >>> mean, variance = moments(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
    >>> mean.item(), variance.item()
    (2.0, 1.0)
    """
    _check_images(x)
    if not available():
        warn_missing()
        variance, mean = torch.var_mean(x.detach(), (0, 2, 3), correction=0)
        return mean, variance
    native, x = compiled(), batch_innermost(x.detach())
    each, mean, variance = norm_of(x), torch.empty(x.shape[1]), torch.empty(x.shape[1])

    def compute(first: int, last: int) -> None:
        native.moments(ctypes.addressof(each), x.data_ptr(), first, last, mean.data_ptr(), variance.data_ptr())

    run_in_threads(compute, split_range(x.shape[1], torch.get_num_threads()))
    return mean, variance


def totals(x: Tensor) -> Tensor:
    """Return the sum of every channel ``[C]``; ``x`` is in the kernels' layout, checked by the caller."""
    if not x.numel():
        return torch.zeros(x.shape[1])
    native, each, sums = compiled(), norm_of(x), torch.empty(x.shape[1])

    def compute(first: int, last: int) -> None:
        native.totals(ctypes.addressof(each), x.data_ptr(), first, last, sums.data_ptr())

    run_in_threads(compute, split_range(x.shape[1], torch.get_num_threads()))
    return sums


def _check_images(x: Tensor) -> None:
    check_tensors(x)
    if x.dim() != 4 or not x.numel():
        raise ValueError(f"{list(x.shape)} are no images [B, C, H, W]")


class _Norm(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("channels", "channel", "runs", "step", "run")),
        *((name, ctypes.c_float) for name in ("epsilon", "low", "high")),
    ]


def norm_of(x: Tensor, epsilon: float = 0.0, limits: Limits = NO_LIMITS) -> _Norm:
    """Describe images in the kernels' layout as runs of a channel's values that follow each other in memory."""
    images, (batch, channels, height, width) = order_of(x), x.shape
    if images.pixel == batch:  # the pixels of a row follow each other
        return _Norm(channels, images.channel, height, images.row, width * batch, epsilon, *limits)
    return _Norm(channels, images.channel, height * width, images.pixel, batch, epsilon, *limits)


class _Node(torch.autograd.Function):
    """A ``Normalization`` in autograd's graph."""

    @staticmethod
    def forward(
        ctx: Any,
        norm: Normalization,
        make: Callable[[], Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        added: Tensor | None,
    ) -> Tensor:
        y = make()
        # Without ``added`` the result is computed again.
        kept = (added, y) if norm.clamps and added is not None else (None, None)
        ctx.save_for_backward(x, weight, bias, norm.mean, norm.variance, *kept)
        ctx.settings, ctx.x_shape, ctx.adds = (norm.epsilon, norm.limits), x.shape, added is not None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, variance, added, y = ctx.saved_tensors
        epsilon, limits = ctx.settings
        _, _, needs_x, _, _, needs_added = ctx.needs_input_grad
        check_saved(x, ctx.x_shape)
        check_saved(weight, mean.shape)
        norm = Normalization(x, weight, bias, mean, variance, epsilon, added, limits)
        if torch.is_grad_enabled():  # create_graph=True: torch's gradients can be differentiated again
            function = norm.function_of_tensors()
            dx, dweight, dbias, dadded = gradients_of(function, (x, weight, bias, added), dy)
            return None, None, dx, dweight, dbias, dy if ctx.adds and added is None and needs_added else dadded
        return None, None, *norm.gradients(y, dy, needs_x, needs_added)


def gradients_of(
    function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...], dy: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``function(*inputs)`` for those inputs that need one.

    If gradients are enabled, they can be differentiated again. Hooks on the inputs do not see this computation.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [_alias(each, again) for each in inputs]
        y = function(*own)
    asked = [each for each in own if each is not None and each.requires_grad]
    found = iter(torch.autograd.grad(y, asked, dy, create_graph=again, allow_unused=True))
    return tuple(next(found) if each is not None and each.requires_grad else None for each in own)


def _alias(x: Tensor | None, history: bool) -> Tensor | None:
    if x is None or not x.requires_grad:
        return x
    return x.view_as(x) if history else x.detach().requires_grad_()
