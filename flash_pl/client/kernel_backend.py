"""Compiled kernels for the layers of a bound module."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import lightning as L
import torch
from torch import Tensor, nn

from flash_pl.client.backend import Backend, PlainSGD
from flash_pl.kernels import (
    SparsePattern,
    batch_norm,
    computes,
    max_pool2d,
    reaches,
    sparse_conv2d,
    sparse_linear,
    worthwhile,
)
from flash_pl.kernels.geometry import pair
from flash_pl.sparsity import Layout

Layer = TypeVar("Layer", bound=nn.Module)


class Forward(ABC, Generic[Layer]):
    """Stands in the place of a layer's ``forward``, as an attribute of the layer.

    A copy of the layer (a teacher, a mean of models), or the layer out of a pickle, computes by torch with its own
    weights: what is copied or pickled in the place of this is the ``forward`` of the layer's class.

    Args:
        module: the layer.
    """

    def __init__(self, module: Layer) -> None:
        self.module = module

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, "forward")  # asked of a layer that has no attributes yet


class Pooling(Forward[nn.MaxPool2d]):
    """Max-pooling, unless windows do not overlap and images lie channels-last: torch is as fast there."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        super().__init__(module)
        self.kernel, self.stride, self.padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)
        self.overlapping = self.stride[0] < self.kernel[0] or self.stride[1] < self.kernel[1]

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or not x.numel() or not reaches(x) or not (self.overlapping or x.is_contiguous()):
            return nn.MaxPool2d.forward(self.module, x)
        return max_pool2d(x, self.kernel, self.stride, self.padding)


class Normalizing(Forward[nn.BatchNorm2d]):
    """Batch normalization while training, in the layout that the sparse convolutions leave."""

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.module
        several = x.ndim == 4 and x.numel() > x.shape[1] > 0
        if not norm.training or not several or not reaches(x) or not x.is_contiguous():
            return nn.BatchNorm2d.forward(norm, x)
        y, mean, variance = batch_norm(x, norm.weight, norm.bias, norm.eps)
        _track(norm, mean, variance, x.numel() // x.shape[1])
        return y


@torch.no_grad()
def _track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics towards a batch's; the variance as an estimate from ``count`` values."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    rate = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, rate)
    norm.running_var.lerp_(variance * (count / (count - 1)), rate)


UNMASKED: dict[type[nn.Module], Callable[[Any], Forward[Any]]] = {
    nn.MaxPool2d: Pooling,
    nn.BatchNorm2d: Normalizing,
}


class KernelBackend(Backend):
    """Lets a module be computed by kernels: convolutions and linear layers that know the mask, max-pools, batch norms.

    While this is entered, single layers have another ``forward``. A layer falls back to torch's wherever the kernels do
    not reach: another device or type than float32 on the CPU, autocast, groups, dilation, an image without a batch.

    Args:
        module: bound, so that its tensors lie in an arena of ``layout``.
        everywhere: use the sparse kernels wherever they can, not only where they are faster at a layer's density.
    """

    def __init__(self, module: L.LightningModule, layout: Layout, everywhere: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere
        self._mask: Tensor | None = None
        slots = {slot.name: slot for slot in layout.layers}
        self._layers: list[_Layer] = []
        self._unmasked: list[Forward[Any]] = []
        shared = _shared_weights(module)
        for name, part in module.named_modules():
            if not computes(part) or "forward" in vars(part):  # another forward is somebody's own
                continue
            if type(part) in UNMASKED:
                self._unmasked.append(UNMASKED[type(part)](part))
            elif isinstance(part, nn.Conv2d | nn.Linear) and part.weight not in shared:
                self._layers.append(_Layer(self, part, slots.get(f"{name}.weight".lstrip("."))))
        self.sgd = PlainSGD([layer.module.weight for layer in self._layers])

    def __enter__(self) -> "KernelBackend":
        for forward in self._forwards:
            forward.module.forward = forward
        return self

    def __exit__(self, *error: object) -> None:
        for forward in self._forwards:
            vars(forward.module).pop("forward", None)

    @property
    def _forwards(self) -> list[Forward[Any]]:
        return [*self._layers, *self._unmasked]

    def __reduce__(self) -> tuple[Any, ...]:
        return Backend, ()  # a copy of the module is computed by torch, see Forward

    def follow(self, mask: Tensor) -> None:
        if mask is not self._mask:
            self._mask = mask
            for layer in self._layers:
                layer.mask(mask)

    @contextmanager
    def eager(self) -> Iterator[None]:
        self.dense = True
        try:
            yield
        finally:
            self.dense = False


class _Layer(Forward[nn.Conv2d | nn.Linear]):
    """A convolution or a linear layer by its active weights."""

    def __init__(self, backend: KernelBackend, module: nn.Conv2d | nn.Linear, slot: Any) -> None:
        super().__init__(module)
        self.backend, self.slot = backend, slot
        self.active = torch.ones_like(module.weight, dtype=torch.bool)
        self.pattern: SparsePattern | None = None
        self.dense: Callable[[Tensor], Tensor] = module.forward

    def mask(self, mask: Tensor) -> None:
        if self.slot is None:
            return
        active = self.slot.view(mask)
        if not torch.equal(active, self.active):
            # A copy: the mask's owner may write to it later.
            self.active, self.pattern = torch.empty_like(self.module.weight, dtype=torch.bool).copy_(active), None

    def __call__(self, x: Tensor) -> Tensor:
        module = self.module
        if self.backend.dense or not reaches(x) or (isinstance(module, nn.Conv2d) and x.ndim != 4):
            return self.dense(x)
        if self.pattern is None:
            self.pattern = SparsePattern(self.active)
        weight = module.weight
        if not self.backend.everywhere and (
            self._is_matrix_product(x) or not worthwhile(weight.shape, self.pattern.density, len(x))
        ):
            return self.dense(x)
        sink = self.backend.sgd.sink(weight)
        if isinstance(module, nn.Linear):
            return sparse_linear(x, weight, module.bias, self.pattern, sink=sink)
        stride, padding = module.stride, module.padding
        return sparse_conv2d(x, weight, module.bias, self.pattern, stride, padding, sink=sink)  # type: ignore[arg-type]

    def _is_matrix_product(self, x: Tensor) -> bool:
        """Whether it is a 1x1 convolution of channels-last images: to torch one matrix product, and between depthwise
        convolutions the copies into the kernels' layout and back would take longer."""
        return self.module.weight.shape[2:].numel() == 1 and x.ndim == 4 and not x.is_contiguous()


def _shared_weights(module: nn.Module) -> set[Tensor]:
    """Weights of several layers: a layer by itself does not know their gradient."""
    found = [getattr(part, "weight", None) for part in module.modules()]
    weights = [weight for weight in found if isinstance(weight, Tensor)]
    counts = Counter(weights)
    return {weight for weight in weights if counts[weight] > 1}
