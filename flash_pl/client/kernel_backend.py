"""The backend that computes a client's layers with sparse kernels on the CPU."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import lightning as L
import torch
from lightning.fabric.utilities import rank_zero_warn
from torch import Tensor, nn

from flash_pl.client.backend import Backend
from flash_pl.client.plain_sgd import PlainSGD, has_gradient_hooks
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
from flash_pl.sparsity import Layout, own_weight
from flash_pl.sparsity.layout import Slot

Layer = TypeVar("Layer", bound=nn.Module)


class KernelBackend(Backend):
    """Computes convolutions and linear layers from their active weights alone; also max-pools and batch norms.

    Inside the ``with`` block these layers have another ``forward``. A layer falls back to torch for inputs that the
    kernels do not support: another device or type than float32 on the CPU, autocast, images without a batch dimension.
    Layers that the kernels do not support at all keep their ``forward``, such as convolutions with groups or dilation.

    Args:
        module: bound, so that its tensors lie in an arena of ``layout``.
        everywhere: use the sparse kernels wherever they work, not only where they are faster at a layer's density.
    """

    name = "sparse kernels"

    def __init__(self, module: L.LightningModule, layout: Layout, everywhere: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere
        self._said_dense = False
        self._mask: Tensor | None = None
        self._sparse: list[SparseForward] = []
        self._forwards: list[Forward[Any]] = []
        slots = {slot.name: slot for slot in layout.layers}
        single = _weights_of_one_layer(module)
        for name, part in module.named_modules():
            if not computes(part) or "forward" in vars(part):  # somebody else has replaced its forward
                continue
            if isinstance(part, nn.MaxPool2d):
                self._forwards.append(PoolForward(part))
            elif isinstance(part, nn.BatchNorm2d):
                self._forwards.append(NormForward(part))
            elif isinstance(part, nn.Conv2d | nn.Linear) and own_weight(part) in single:
                self._sparse.append(SparseForward(self, part, slots.get(f"{name}.weight".lstrip("."))))
        self._forwards += self._sparse
        self.sgd = PlainSGD([forward.module.weight for forward in self._sparse])

    def __enter__(self) -> "KernelBackend":
        for forward in self._forwards:
            forward.module.forward = forward
        return self

    def __exit__(self, *error: object) -> None:
        for forward in self._forwards:
            vars(forward.module).pop("forward", None)

    def __reduce__(self) -> tuple[Any, ...]:
        return Backend, ()  # torch computes a copy of the module, see Forward

    def say_dense(self, reason: str) -> None:
        """Warn, once per run, that torch computes layers for ``reason``."""
        if not self._said_dense:
            self._said_dense = True
            rank_zero_warn(f"{reason} sees the gradients of pruned weights, so torch computes dense layers for it")

    def set_mask(self, mask: Tensor) -> None:
        if mask is not self._mask:
            self._mask = mask
            for forward in self._sparse:
                forward.set_mask(mask)

    @contextmanager
    def eager(self) -> Iterator[None]:
        self.dense = True
        try:
            yield
        finally:
            self.dense = False


def _weights_of_one_layer(module: nn.Module) -> set[Tensor | None]:
    """Return the weights that no two layers share; of a shared weight no single layer could compute the gradient."""
    counts = Counter(weight for part in module.modules() if (weight := own_weight(part)) is not None)
    return {weight for weight, count in counts.items() if count == 1}


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
        backend: of this layer.
        module: the layer.
        slot: place of the layer's weight in the arena; None if the weight is not maskable.
    """

    def __init__(self, backend: KernelBackend, module: nn.Conv2d | nn.Linear, slot: Slot | None) -> None:
        super().__init__(module)
        self.backend, self.slot = backend, slot
        self.active = torch.ones_like(module.weight, dtype=torch.bool)
        self.pattern: SparsePattern | None = None  # of ``active``, made when it is needed
        self.dense: Callable[[Tensor], Tensor] = module.forward

    def set_mask(self, mask: Tensor) -> None:
        """Take the layer's part of ``mask``, bool ``[maskable]``."""
        if self.slot is None:
            return
        active = self.slot.view(mask)
        if not torch.equal(active, self.active):
            # A copy, because the mask's owner may write to the mask later.
            self.active, self.pattern = torch.empty_like(self.module.weight, dtype=torch.bool).copy_(active), None

    def __call__(self, x: Tensor) -> Tensor:
        module = self.module
        if self.backend.dense or not reaches(x) or (isinstance(module, nn.Conv2d) and x.ndim != 4):
            return self.dense(x)
        if self.pattern is None:
            self.pattern = SparsePattern(self.active)
        weight, bias, pattern = module.weight, module.bias, self.pattern
        # A linear layer's input may be sequences; every position is a row.
        rows = len(x) if isinstance(module, nn.Conv2d) else x.shape[:-1].numel()
        if not self.backend.everywhere and (
            self._is_matrix_product(x) or not worthwhile(weight.shape, pattern.density, rows)
        ):
            return self.dense(x)
        if has_gradient_hooks(weight):
            self.backend.say_dense("a hook on the gradient of a weight")
            return self.dense(x)
        gradient: Any = {"sink": self.backend.sgd.sink(weight), "all_gradients": self.needs_all_gradients}
        if isinstance(module, nn.Linear):
            return sparse_linear(x, weight, bias, pattern, **gradient)
        stride, padding = module.stride, module.padding
        return sparse_conv2d(x, weight, bias, pattern, stride, padding, **gradient)  # type: ignore[arg-type]

    def needs_all_gradients(self) -> bool:
        """Whether the user sees the gradients of a backward pass, which are then those of pruned weights too."""
        return not self.backend.training_backward or has_gradient_hooks(self.module.weight)

    def _is_matrix_product(self, x: Tensor) -> bool:
        """Whether this is a 1x1 convolution of channels-last images.

        Torch computes it as one matrix product. Between depthwise convolutions, copies into the kernels' memory layout
        and back would take longer.
        """
        return self.module.weight.shape[2:].numel() == 1 and x.ndim == 4 and not x.is_contiguous()


class PoolForward(Forward[nn.MaxPool2d]):
    """Max-pooling. Torch computes non-overlapping windows of channels-last images, where it is as fast."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        super().__init__(module)
        self.kernel, self.stride, self.padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)
        self.overlapping = self.stride[0] < self.kernel[0] or self.stride[1] < self.kernel[1]

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or not x.numel() or not reaches(x) or not (self.overlapping or x.is_contiguous()):
            return nn.MaxPool2d.forward(self.module, x)
        return max_pool2d(x, self.kernel, self.stride, self.padding)


class NormForward(Forward[nn.BatchNorm2d]):
    """Batch normalization during training, in the memory layout that the sparse convolutions return."""

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.module
        several_values = x.ndim == 4 and x.numel() > x.shape[1] > 0
        if not norm.training or not several_values or not reaches(x) or not x.is_contiguous():
            return nn.BatchNorm2d.forward(norm, x)
        y, mean, variance = batch_norm(x, norm.weight, norm.bias, norm.eps)
        self._track(mean, variance, x.numel() // x.shape[1])
        return y

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
