"""Layers of a client whose ``forward`` the kernels compute."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from flash_pl.client.plain_sgd import PlainSGD, has_gradient_hooks
from flash_pl.kernels import (
    Normalization,
    SparsePattern,
    contiguous,
    deferred,
    is_batch_innermost,
    linear_worthwhile,
    max_pool2d,
    moments,
    reaches,
    settled,
    sparse_conv2d,
    sparse_linear,
)
from flash_pl.kernels.geometry import pair
from flash_pl.sparsity.layout import Slot

Layer = TypeVar("Layer", bound=nn.Module)


class Plan(Protocol):
    """What the layers ask their backend."""

    dense: bool
    training_backward: bool
    everywhere: bool
    keeps_layout: bool
    sgd: PlainSGD

    @property
    def computes_images(self) -> bool:
        """Whether the kernels compute the convolutions."""

    def say_dense(self, reason: str) -> None:
        """Warn, once per run, that torch computes layers for ``reason``."""


class Forward(ABC, Generic[Layer]):
    """Replaces a layer's ``forward``, as an attribute of the layer.

    A copy of the layer (for a teacher, or a mean of models) or an unpickled layer uses torch and its own weights:
    copying or pickling this object gives the ``forward`` of the layer's class.

    Args:
        module: the layer.
    """

    def __init__(self, module: Layer) -> None:
        self.module = module

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, "forward")  # evaluated before the new layer has attributes of its own


class SparseForward(Forward[nn.Conv2d | nn.Linear]):
    """A convolution or a linear layer, computed from its active weights.

    Args:
        plan: of the network.
        module: the layer.
        slot: place of the layer's weight in the arena; None if the weight is not maskable.
    """

    def __init__(self, plan: Plan, module: nn.Conv2d | nn.Linear, slot: Slot | None) -> None:
        super().__init__(module)
        self.plan, self.slot = plan, slot
        self.active = torch.ones_like(module.weight, dtype=torch.bool)
        self._pattern: SparsePattern | None = None
        self.dense: Callable[[Tensor], Tensor] = module.forward

    @property
    def pattern(self) -> SparsePattern:
        """Of ``active``, made when it is needed."""
        if self._pattern is None:
            self._pattern = SparsePattern(self.active)
        return self._pattern

    @property
    def density(self) -> float:
        return self.pattern.density

    def set_mask(self, mask: Tensor) -> bool:
        """Take the layer's part of ``mask``, bool ``[maskable]``; return whether it differs from the one before."""
        if self.slot is None or torch.equal(active := self.slot.view(mask), self.active):
            return False
        # A copy, because the mask's owner may write to the mask later.
        self.active = torch.empty_like(self.module.weight, dtype=torch.bool).copy_(active)
        self._pattern = None
        return True

    def __call__(self, x: Tensor) -> Tensor:
        module, weight, bias = self.module, self.module.weight, self.module.bias
        if self.plan.dense or not reaches(x) or (isinstance(module, nn.Conv2d) and x.ndim != 4):
            return self.dense(settled(x))
        if not self.plan.everywhere and not self._is_worthwhile(x):
            return self.dense(settled(x))
        if has_gradient_hooks(weight):
            self.plan.say_dense("a hook on the gradient of a weight")
            return self.dense(settled(x))
        gradient: Any = {"sink": self.plan.sgd.sink(weight), "all_gradients": self.needs_all_gradients}
        if isinstance(module, nn.Linear):
            return sparse_linear(settled(x), weight, bias, self.pattern, **gradient)
        geometry: Any = module.stride, module.padding, module.groups
        y = sparse_conv2d(x, weight, bias, self.pattern, *geometry, **gradient)
        return y if self.plan.keeps_layout else contiguous(y)

    def needs_all_gradients(self) -> bool:
        """Whether the user sees the gradients of a backward pass, which are then those of pruned weights too."""
        return not self.plan.training_backward or has_gradient_hooks(self.module.weight)

    def _is_worthwhile(self, x: Tensor) -> bool:
        if isinstance(self.module, nn.Conv2d):
            return self.plan.computes_images
        # The input may be sequences; every position is a row.
        return linear_worthwhile(self.module.weight.shape, self.density, x.shape[:-1].numel())


class PoolForward(Forward[nn.MaxPool2d]):
    """Max-pooling of images in the kernels' layout."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        super().__init__(module)
        self.kernel, self.stride, self.padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)

    def __call__(self, x: Tensor) -> Tensor:
        x = settled(x)
        if x.ndim != 4 or not x.numel() or not reaches(x) or not is_batch_innermost(x):
            return nn.MaxPool2d.forward(self.module, x)
        return max_pool2d(x, self.kernel, self.stride, self.padding)


class DropoutForward(Forward[nn.Dropout]):
    """Dropout of the kernels' results, with the draws that torch makes for contiguous ones."""

    def __call__(self, x: Tensor) -> Tensor:
        dropout, x = self.module, settled(x)
        draws = dropout.training and 0 < dropout.p < 1 and not dropout.inplace
        if not draws or not reaches(x) or not x.numel() or not _lies_as_the_kernels_results(x):
            return nn.Dropout.forward(dropout, x)
        kept = 1 - dropout.p
        return x * torch.empty_like(x).copy_(torch.empty(x.shape).bernoulli_(kept).div_(kept))


def _lies_as_the_kernels_results(x: Tensor) -> bool:
    return is_batch_innermost(x) if x.ndim == 4 else x.ndim == 2 and x.stride(0) == 1 and not x.is_contiguous()


class NormForward(Forward[nn.BatchNorm2d]):
    """Batch normalization of images in the kernels' layout, computed together with what follows it.

    Args:
        module: the layer.
        around: the modules that the layer is part of. A hook on one of them wants to see the result or its gradient.
    """

    def __init__(self, module: nn.BatchNorm2d, around: list[nn.Module]) -> None:
        super().__init__(module)
        self._hooked = [module, *around]

    def __call__(self, x: Tensor) -> Tensor:
        norm, x = self.module, settled(x)
        batch_statistics = norm.training or norm.running_mean is None
        several_values = x.ndim == 4 and x.numel() > x.shape[1] > 0
        differentiable = batch_statistics or not torch.is_grad_enabled()
        if not several_values or not differentiable or not reaches(x) or not is_batch_innermost(x):
            return nn.BatchNorm2d.forward(norm, x)
        if batch_statistics:
            mean, variance = moments(x)
            if norm.training:
                self._track(mean, variance, x.numel() // x.shape[1])
        else:
            assert norm.running_mean is not None and norm.running_var is not None
            mean, variance = norm.running_mean, norm.running_var
        y = deferred(Normalization(x, norm.weight, norm.bias, mean, variance, norm.eps))
        return settled(y) if self._has_hooks() else y

    def _has_hooks(self) -> bool:
        if torch_module._global_forward_hooks or torch_module._global_backward_hooks:
            return True
        return any(part._forward_hooks or part._backward_hooks or part._backward_pre_hooks for part in self._hooked)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics with a batch of ``count`` values per channel, as torch does."""
        norm = self.module
        if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
            return
        norm.num_batches_tracked.add_(1)
        rate = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean, rate)
        norm.running_var.lerp_(variance * (count / (count - 1)), rate)  # the unbiased variance
