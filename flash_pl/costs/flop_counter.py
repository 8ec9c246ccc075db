"""Counts the FLOPs of a module as PyTorch computes it, operation by operation."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from flash_pl.costs.flops import Flops


def count_flops(module: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> Flops:
    """The FLOPs of a pass of all samples of a batch through a module, by PyTorch's formulas for single operations.

    The FLOPs of a product are added to the maskable weight among its factors, whichever layer calls it. The factor may
    also be a tensor of the same size that torch computes from the weight, as ``weight_norm`` and autocast do, or join
    several weights, which then share the FLOPs by their sizes. All other products, such as those of attention scores,
    are the ``rest``.

    Training computes the gradient of each factor that depends on a trained parameter, and each takes as many FLOPs as
    the product. Every result counts as if it had a part in the loss. A pass that computes gradients itself counts their
    products like those of a forward pass. If gradients are off, as in an evaluation, the FLOPs of training are those of
    a training that computes the same, where a detached tensor counts as if it were not.

    Args:
        module: the model.
        names: of the maskable weights, such as ``"model.conv1.weight"``.
        run: calls the module, or its validation step, on a batch.

    >>> network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> count_flops(network, ["0.weight", "2.weight"], lambda: network(torch.ones(1, 8)))
    Flops(layers=(64.0, 16.0), rest=0.0, input_gradients=(0.0, 16.0), rest_gradients=0.0)
    """
    switch = _GradientSwitch()
    counter = _FlopCounter(module, names, switch)
    with _without_fused_kernels(module), switch, counter:
        run()
    forward, backward = counter.forward, counter.backward
    input_gradients = tuple(backward[name] - forward[name] for name in names)
    return Flops(tuple(forward[name] for name in names), forward[None], input_gradients, backward[None])


Owners = tuple[str, ...]  # names of parameters
WITH_SUMMAND = (torch.ops.aten.addmm, torch.ops.aten.baddbmm)  # their first argument is added to the product


class _FlopCounter(TorchDispatchMode):
    """Sees every operation of torch, and adds its FLOPs to the maskable weight among its factors.

    Args:
        module: the model. All its tensors may lie in one storage, as they do in an arena.
        names: of the maskable weights.
        switch: says where the pass needs no gradients.

    Attributes:
        forward: FLOPs of the products with each maskable weight, by its name; those of all others by None.
        backward: FLOPs of the gradients of their factors.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], switch: "_GradientSwitch") -> None:
        super().__init__()
        self.switch = switch
        parameters = dict(module.named_parameters())
        self.forward: dict[str | None, float] = dict.fromkeys([*names, None], 0.0)
        self.backward = dict(self.forward)
        self._sizes = {name: parameter.numel() for name, parameter in parameters.items()}
        self._trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
        self._places: dict[int, list[tuple[int, int, Owners]]] = {}  # storage -> (start, stop, owners) in it, in bytes
        self._kept: list[Tensor] = []  # so that no other tensor gets their storage
        self._constant: set[int] = set()  # storages that depend on parameters and buffers alone, not on the batch
        self._learned: set[int] = set()  # storages that depend on trained parameters
        for tensor in (*module.parameters(), *module.buffers()):
            self._keep_constant(tensor)
        for name, parameter in parameters.items():
            self._remember(parameter, (name,))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # an operation that is made of others, under inference mode
                if (out := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return out
        inputs = [] if func in NEW else _tensors((args, kwargs))
        constant, learned = all(map(self._is_constant, inputs)), any(map(self._is_learned, inputs))
        out = func(*args, **kwargs)
        if formula is not None:
            factors = args[1:3] if func._overloadpacket in WITH_SUMMAND else args[:2]
            self._add(factors, float(formula(*args, **kwargs, out_val=out)))
        constant = constant and formula is None
        owners = tuple(chain(*map(self._owners, inputs))) if func in JOINS else self._maskable_owners(inputs)
        size = sum(self._sizes[name] for name in owners)
        for tensor in _tensors(out):
            self._note(tensor, constant, learned)
            if constant and owners and tensor.numel() == size and not self._owners(tensor):
                self._remember(tensor, owners)
        return out

    def _add(self, factors: Sequence[Tensor], flops: float) -> None:
        owners, gradients = self._maskable_owners(factors), sum(map(self._is_learned, factors))
        size = sum(self._sizes[name] for name in owners)
        for owner in owners or (None,):
            share = self._sizes[owner] / size if owner else 1.0
            name = owner if owner in self.forward else None
            self.forward[name] += flops * share
            self.backward[name] += flops * share * gradients

    def _note(self, tensor: Tensor, constant: bool, learned: bool) -> None:
        """Note what the result of an operation depends on; its storage may have been another tensor's."""
        if not (storage := _storage(tensor)):
            return
        if constant:
            self._keep_constant(tensor)
        else:
            self._constant.discard(storage)
        if learned and (tensor.is_floating_point() or tensor.is_complex()):
            self._learned.add(storage)
        else:
            self._learned.discard(storage)

    def _keep_constant(self, tensor: Tensor) -> None:
        self._kept.append(tensor)
        self._constant.add(_storage(tensor))

    def _remember(self, weight: Tensor, owners: Owners) -> None:
        if not _storage(weight):
            return
        start = int(weight.storage_offset()) * weight.itemsize
        self._places.setdefault(_storage(weight), []).append((start, start + int(weight.nbytes), owners))

    def _is_constant(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self._constant

    def _is_learned(self, tensor: Tensor) -> bool:
        if self.switch.on:
            return tensor.requires_grad
        if self.switch.off:
            return False
        if owners := self._owners(tensor):
            return not self._trained.isdisjoint(owners)
        return tensor.requires_grad or _storage(tensor) in self._learned

    def _maskable_owners(self, tensors: Iterable[Tensor]) -> Owners:
        """The owners of the first tensor that has a maskable weight among them."""
        return next((owners for owners in map(self._owners, tensors) if not self.forward.keys().isdisjoint(owners)), ())

    def _owners(self, tensor: Tensor) -> Owners:
        """The parameters of which a tensor is a view, or from which torch has computed it."""
        if not (places := self._places.get(_storage(tensor))):
            return ()
        offset = tensor.storage_offset() * tensor.itemsize
        return next((owners for start, stop, owners in places if start <= offset < stop), ())


class _GradientSwitch(TorchFunctionMode):
    """Sees where a pass needs gradients.

    It is neither on nor off in an evaluation, which needs none itself, and in the body of an ``autograd.Function``,
    which runs without gradients and has a backward pass of its own. PyTorch enters that without a call seen here.
    """

    def __init__(self) -> None:
        super().__init__()
        self._training = torch.is_grad_enabled()
        self._switched_off = False

    @property
    def on(self) -> bool:
        """Whether PyTorch differentiates what is computed now, so that ``requires_grad`` of all tensors is known."""
        return self._training and torch.is_grad_enabled()

    @property
    def off(self) -> bool:
        """Whether a training computes without gradients, under ``no_grad`` or ``inference_mode``."""
        return self._training and (self._switched_off or torch.is_inference_mode_enabled())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:
            (enabled,) = args
            # Reentrant checkpointing switches off in the body of a function, where gradients are off already.
            self._switched_off = not enabled and (self._switched_off or torch.is_grad_enabled())
        return func(*args, **(kwargs or {}))


JOINS = (torch.ops.aten.cat.default, torch.ops.aten.stack.default)
NEW = (torch.ops.aten.lift_fresh.default,)  # its argument is a new tensor, whose storage may have been another's


def _tensors(values: object) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _storage(tensor: Tensor) -> int:
    """Where the tensor's memory begins; 0 if it has none of its own, as sparse tensors and those of ``torch.func``."""
    try:
        return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0
    except RuntimeError:
        return 0


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
