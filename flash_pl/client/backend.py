"""Which kernels compute the layers of a bound module."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from flash_pl.client.plain_sgd import PlainSGD
from flash_pl.errors import ConfigError
from flash_pl.kernels import (
    SparsePattern,
    available,
    computes,
    max_pool2d,
    reaches,
    sparse_conv2d,
    sparse_linear,
    worthwhile,
)
from flash_pl.kernels.geometry import pair
from flash_pl.sparsity import Layout

MODES = ("auto", "dense", "sparse")
Forward = Callable[[Tensor], Tensor]


class Backend:
    """Lets convolutions, linear layers and max-pools of a module be computed by kernels that know the mask.

    The module keeps its class, its parameters and its hooks; while this is entered, single layers have another
    ``forward``. A layer falls back to torch's wherever the kernels do not reach: another device or type than float32 on
    the CPU, autocast, groups, dilation.

    Args:
        module: bound, so that its tensors lie in an arena of ``layout``.
        mode: "auto" uses the kernels where they are faster at a layer's density, "sparse" wherever they can, "dense"
            never.

    Attributes:
        dense: compute with torch for the time being: gradients of pruned weights are wanted.
        sgd: takes an optimiser's steps for the layers that the kernels compute.

    Raises:
        ConfigError: no such mode, or "sparse" without compiled kernels.
    """

    def __init__(self, module: L.LightningModule, layout: Layout, mode: str = "auto") -> None:
        if mode not in MODES:
            raise ConfigError("backend", mode, f"one of {', '.join(MODES)}")
        if mode == "sparse" and not available():
            raise ConfigError("backend", mode, "auto or dense; this installation has no compiled kernels")
        self.mode, self.dense = mode, False
        self._mask: Tensor | None = None
        slots = {slot.name: slot for slot in layout.layers}
        self._layers: list[_Layer] = []
        self._pools: list[tuple[nn.MaxPool2d, Forward]] = []
        self.sgd = PlainSGD([])
        on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
        if mode == "dense" or not available() or not on_cpu:
            return
        shared = _shared_weights(module)
        for name, part in module.named_modules():
            if not computes(part) or "forward" in vars(part):  # another forward is somebody's own
                continue
            if isinstance(part, nn.MaxPool2d):
                self._pools.append((part, _pooling(part)))
            elif isinstance(part, nn.Conv2d | nn.Linear) and part.weight not in shared:
                self._layers.append(_Layer(self, part, slots.get(f"{name}.weight".lstrip("."))))
        self.sgd = PlainSGD([layer.module.weight for layer in self._layers])

    def __enter__(self) -> "Backend":
        for layer in self._layers:
            layer.module.forward = layer  # type: ignore[method-assign, assignment]
        for pool, kernel in self._pools:
            pool.forward = kernel  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *error: object) -> None:
        for part in [*(layer.module for layer in self._layers), *(pool for pool, _ in self._pools)]:
            vars(part).pop("forward", None)

    def follow(self, mask: Tensor) -> None:
        """From now on the maskable weights outside of ``mask``, bool ``[maskable]``, are 0."""
        if mask is not self._mask:
            self._mask = mask
            for layer in self._layers:
                layer.mask(mask)


class _Layer:
    """The ``forward`` of one layer."""

    def __init__(self, backend: Backend, module: nn.Conv2d | nn.Linear, slot: Any) -> None:
        self.backend, self.module, self.slot = backend, module, slot
        self.active = torch.ones_like(module.weight, dtype=torch.bool)
        self.pattern: SparsePattern | None = None
        self.dense: Forward = module.forward

    def mask(self, mask: Tensor) -> None:
        if self.slot is None:
            return
        active = self.slot.view(mask)
        if not torch.equal(active, self.active):
            # A copy: the mask's owner may write to it later.
            self.active, self.pattern = torch.empty_like(self.module.weight, dtype=torch.bool).copy_(active), None

    def __call__(self, x: Tensor) -> Tensor:
        module = self.module
        if self.backend.dense or not reaches(x):
            return self.dense(x)
        if self.pattern is None:
            self.pattern = SparsePattern(self.active)
        weight = module.weight
        if self.backend.mode == "auto" and (
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


def _pooling(pool: nn.MaxPool2d) -> Forward:
    """A max-pool by the kernels."""
    kernel, stride, padding = pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)
    overlapping = stride[0] < kernel[0] or stride[1] < kernel[1]

    def forward(x: Tensor) -> Tensor:
        # Where windows do not overlap, torch's own is as fast on images that lie channels-last.
        if x.ndim != 4 or not x.numel() or not reaches(x) or not (overlapping or x.is_contiguous()):
            return nn.MaxPool2d.forward(pool, x)
        return max_pool2d(x, kernel, stride, padding)

    return forward
