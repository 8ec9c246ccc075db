"""The backend that computes a client's layers with sparse kernels on the CPU."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.fabric.utilities import rank_zero_warn
from torch import Tensor, nn

from flash_pl.client.backend import Backend
from flash_pl.client.kernel_layers import DropoutForward, Forward, NormForward, PoolForward, SparseForward
from flash_pl.client.plain_sgd import PlainSGD
from flash_pl.kernels import computes, images_worthwhile
from flash_pl.sparsity import Layout, own_weight

NEED_CONTIGUOUS = nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm, nn.LayerNorm


class KernelBackend(Backend):
    """Computes convolutions and linear layers from their active weights alone; also max-pools and batch norms.

    Inside the ``with`` block these layers have another ``forward``. A layer falls back to torch for inputs that the
    kernels do not support: another device or type than float32 on the CPU, autocast, images without a batch dimension.
    Layers that the kernels do not support at all keep their ``forward``, such as convolutions with dilation.

    Either the kernels compute all convolutions of a network, and images stay in the kernels' layout from layer to
    layer, or torch does. To other layers and to the user's code these images are ordinary tensors with unusual strides.
    If the network has layers that would copy such images, the convolutions return contiguous ones.

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
        self._computes_images: bool | None = None
        self._sparse: list[SparseForward] = []
        self._forwards: list[Forward[Any]] = []
        slots = {slot.name: slot for slot in layout.layers}
        single = _weights_of_one_layer(module)
        self.keeps_layout = not any(isinstance(part, NEED_CONTIGUOUS) for part in module.modules())
        for name, part in module.named_modules():
            if not computes(part) or "forward" in vars(part):  # somebody else has replaced its forward
                continue
            if isinstance(part, nn.MaxPool2d):
                self._forwards.append(PoolForward(part))
            elif isinstance(part, nn.Dropout):
                self._forwards.append(DropoutForward(part))
            elif isinstance(part, nn.BatchNorm2d):
                self._forwards.append(NormForward(part, _around(module, name)))
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
            if any([forward.set_mask(mask) for forward in self._sparse]):
                self._computes_images = None

    @property
    def computes_images(self) -> bool:
        """Whether the kernels compute the convolutions, at the densities of the mask."""
        if self._computes_images is None:
            convolutions = [each for each in self._sparse if isinstance(each.module, nn.Conv2d)]
            layers = [(each.module.weight.shape, each.density) for each in convolutions]
            self._computes_images = images_worthwhile(layers)
        return self._computes_images

    @contextmanager
    def eager(self) -> Iterator[None]:
        replaced = [each for each in self._forwards if vars(each.module).get("forward") is each]
        for forward in replaced:
            del forward.module.forward
        try:
            yield
        finally:
            for forward in replaced:
                forward.module.forward = forward


def _weights_of_one_layer(module: nn.Module) -> set[Tensor | None]:
    """Return the weights that no two layers share; of a shared weight no single layer could compute the gradient."""
    counts = Counter(weight for part in module.modules() if (weight := own_weight(part)) is not None)
    return {weight for weight, count in counts.items() if count == 1}


def _around(module: nn.Module, name: str) -> list[nn.Module]:
    """Return the modules that the part with this name is in."""
    names = name.split(".")
    return [module.get_submodule(".".join(names[:depth])) for depth in range(len(names))]
