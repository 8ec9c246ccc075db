"""Theoretical floating-point operations of a model under a mask; how fast kernels compute them is another matter."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from flash_pl.errors import ConfigError
from flash_pl.sparsity import Layout


@dataclass(frozen=True)
class Flops:
    """Forward FLOPs of the dense model, of one sample or of a batch; a multiply-add counts as two.

    Args:
        layers: of the maskable layers, in their order.
        rest: of all other layers.
        first: index of the maskable layer that works on the input, which needs no gradient of it; None if that layer is
            not maskable.
        input: FLOPs of the layer that works on the input if it is not maskable, a part of ``rest``.
        frozen: FLOPs of the products with frozen weights, a part of ``rest``. No gradient of these weights is computed.

    >>> flops = Flops(layers=(100.0, 40.0), rest=10.0, first=0)
    >>> flops.forward(torch.tensor([0.5, 0.25]))
    70.0
    >>> flops.training(flops.dense)
    350.0
    """

    layers: tuple[float, ...]
    rest: float
    first: int | None
    input: float = 0.0
    frozen: float = 0.0

    def forward(self, densities: Tensor) -> float:
        """f_S: the sum of the layers' FLOPs times their density, plus the rest; f_D for densities of 1."""
        return sum(f * d for f, d in zip(self.layers, densities.tolist(), strict=True)) + self.rest

    def density(self, densities: Tensor) -> float:
        """The share of the maskable layers' FLOPs that remains, sum_l f_l d_l / sum_l f_l; 1 if they have none."""
        dense = sum(self.layers)
        return (self.forward(densities) - self.rest) / dense if dense else 1.0

    def of_each(self, samples: int) -> "Flops":
        """The FLOPs of one sample, where these are of ``samples`` samples."""
        layers = tuple(f / samples for f in self.layers)
        return Flops(layers, self.rest / samples, self.first, self.input / samples, self.frozen / samples)

    def training(self, densities: Tensor, dense_gradients: float = 0.0) -> float:
        """FLOPs of one sample in one step.

        The forward pass takes f_S, the gradient of the inputs f_S without the first layer, the gradient of the weights
        f_S without the frozen weights, or f_D in the share ``dense_gradients`` of the steps, which compute gradients of
        pruned weights too.
        """
        forward = self.forward(densities)
        input_layer = self.input if self.first is None else self.layers[self.first] * float(densities[self.first])
        return 3 * forward - input_layer - self.frozen + dense_gradients * (self.forward(self.dense) - forward)

    @property
    def dense(self) -> Tensor:
        """Layer densities of 1, of a dense model."""
        return torch.ones(len(self.layers), dtype=torch.float64)


def multiply_adds(flops: Flops | None, layout: Layout) -> Tensor:
    """Forward multiply-adds of one sample in each maskable layer, if it is dense, float64 ``[layers]``.

    These are the ``layout.costs`` of a run whose density is a share of FLOPs. The ``rest`` has no part in them.

    Args:
        flops: of one sample; None if they could not be counted.
        layout: of the model.

    Raises:
        ConfigError: they could not be counted, or a layer takes none, so that its weights would cost nothing.
    """
    if flops is None:
        problem = "flops, but no validation_step runs the model to count its FLOPs"
        raise ConfigError("density_of", problem, "write a validation_step, or set density_of=weights")
    for slot, size, count in zip(layout.layers, layout.sizes.tolist(), flops.layers, strict=True):
        if size and not count:
            problem = f"flops, but the maskable weight {slot.name} takes no FLOPs in validation"
            raise ConfigError("density_of", problem, "exclude it from masking, or set density_of=weights")
    return torch.tensor(flops.layers, dtype=torch.float64) / 2


@torch.no_grad()
def count_flops(module: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> Flops:
    """The FLOPs of a pass of all samples of a batch through a module, by PyTorch's formulas for single operations.

    The FLOPs of a product are added to the maskable weight among its factors, whichever layer calls it. The factor may
    also be a tensor of the same size that torch computes from the weight, as ``weight_norm`` and autocast do. All other
    products, such as those of attention scores, are the ``rest``. The first product is taken as the one that works on
    the input, and its whole weight as not needing the input's gradient.

    Args:
        module: the model.
        names: of the maskable weights, such as ``"model.conv1.weight"``.
        run: calls the module, or its validation step, on a batch.

    >>> network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> count_flops(network, ["0.weight", "2.weight"], lambda: network(torch.ones(1, 8)))
    Flops(layers=(64.0, 16.0), rest=0.0, first=0, input=0.0, frozen=0.0)
    """
    weights = {name: module.get_parameter(name) for name in names}
    frozen = {name: weight for name, weight in module.named_parameters() if not weight.requires_grad}
    counter = _FlopCounter(weights, frozen, (*module.parameters(), *module.buffers()))
    with _without_fused_kernels(module), counter:
        run()
    layers = tuple(counter.flops[name] for name in names)
    of_frozen = sum((counter.flops[name] for name in frozen), 0.0)
    return Flops(layers, counter.flops[None] + of_frozen, counter.first, counter.input, of_frozen)


WITH_SUMMAND = (torch.ops.aten.addmm, torch.ops.aten.baddbmm)  # their first argument is added to the product


class _FlopCounter(TorchDispatchMode):
    """Sees every operation of torch, and adds its FLOPs to the weight among its arguments.

    Args:
        weights: the maskable weights by name. Several may lie in one storage, as they do in an arena.
        frozen: the frozen parameters by name, none of which is maskable.
        constants: all parameters and buffers of the module.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], frozen: Mapping[str, Tensor], constants: Iterable[Tensor]
    ) -> None:
        super().__init__()
        self.maskable, weights = list(weights), {**weights, **frozen}
        self.flops: dict[str | None, float] = {None: 0.0} | dict.fromkeys(weights, 0.0)
        self.first: int | None = None  # as in Flops
        self.input = 0.0
        self._sizes = {name: weight.numel() for name, weight in weights.items()}
        self._places: dict[int, list[tuple[int, int, str]]] = {}  # storage -> (start, stop, weight) in it
        self._kept: list[Tensor] = []  # so that no other tensor gets their storage
        self._constant: set[int] = set()  # storages that depend on parameters and buffers alone, not on the batch
        for tensor in constants:
            self._keep_constant(tensor)
        for name, weight in weights.items():
            self._remember(weight, name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # an operation that is made of others, under inference mode
                if (out := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return out
        out = func(*args, **kwargs)
        if formula is not None:
            factors = args[1:3] if func._overloadpacket in WITH_SUMMAND else args[:2]
            self._add(self._first_weight(factors), float(formula(*args, **kwargs, out_val=out)))
            return out
        inputs = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        outputs = [tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]
        constant, name = all(_storage(tensor) in self._constant for tensor in inputs), self._first_weight(inputs)
        for tensor in outputs:
            if not constant:
                self._constant.discard(_storage(tensor))  # an operation in place has written data of the batch
                continue
            self._keep_constant(tensor)
            if name is not None and tensor.numel() == self._sizes[name] and self._weight_of(tensor) is None:
                self._remember(tensor, name)
        return out

    def _add(self, name: str | None, flops: float) -> None:
        if flops and not any(self.flops.values()):
            self.first, self.input = (self.maskable.index(name), 0.0) if name in self.maskable else (None, flops)
        self.flops[name] += flops

    def _keep_constant(self, tensor: Tensor) -> None:
        self._kept.append(tensor)
        self._constant.add(_storage(tensor))

    def _remember(self, weight: Tensor, name: str) -> None:
        start = int(weight.storage_offset())
        self._places.setdefault(_storage(weight), []).append((start, start + weight.numel(), name))

    def _first_weight(self, values: Iterable[object]) -> str | None:
        return next((name for name in map(self._weight_of, values) if name is not None), None)

    def _weight_of(self, value: object) -> str | None:
        """The maskable weight of which a tensor is a view."""
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return None
        places, offset = self._places.get(_storage(value), ()), value.storage_offset()
        return next((name for start, stop, name in places if start <= offset < stop), None)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


@contextmanager
def _without_fused_kernels(module: nn.Module) -> Iterator[None]:
    """A context in which attention and recurrent layers call matrix products: no formula knows all fused kernels."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), ExitStack() as stack:
            if any(isinstance(part, nn.RNNBase) for part in module.modules()):
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", UserWarning)  # setting flags warns of GPUs that are not there
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
