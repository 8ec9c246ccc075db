"""A batch normalization that is computed when somebody reads it, together with the addition and ReLU that follow it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels.norm import RELU, RELU6, Limits, Normalization


class DeferredNorm(Tensor):
    """The result of a batch normalization, whose values are computed when somebody reads them.

    An addition and a ReLU that follow immediately are computed in the same pass over memory, or while a convolution
    reads the result. Any other operation, hook or autograd function finds the values of a tensor; to autograd this is a
    tensor as any other.

    Make one with ``deferred``.
    """

    _normalization: Normalization
    _versions: list[int]
    _read: Tensor | None
    _successor: Tensor | None  # the same with a history; or what an operation in place has made of it

    @staticmethod
    def make(normalization: Normalization) -> "DeferredNorm":
        """Return the tensor without a history."""
        x = normalization.x
        self: DeferredNorm = Tensor._make_wrapper_subclass(
            DeferredNorm, x.shape, strides=x.stride(), dtype=x.dtype, device=x.device
        )
        self._normalization, self._read, self._successor = normalization, None, None
        self._versions = _versions(normalization)
        return self

    @property
    def normalization(self) -> Normalization:
        """What is to be computed.

        Raises:
            RuntimeError: somebody has changed a tensor that it is computed from.
        """
        if self._versions != _versions(self._normalization):
            raise RuntimeError(
                "the input of a batch norm was changed in place before its result was read; "
                "change a copy instead, or set trainer.backend to dense"
            )
        return self._normalization

    def read(self) -> Tensor:
        """Return the values, without a history; computed once."""
        with torch._C.DisableTorchFunctionSubclass():
            if self._read is None:
                successor = self._successor
                self._read = self.normalization.values() if successor is None else successor.detach()
            return self._read

    @property
    def unread(self) -> bool:
        """Whether nobody has read the values so far."""
        return self._read is None

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            args, kwargs = _replace((args, kwargs or {}), _latest)
            fuse = _FUSED.get(func)
            fused = fuse(*args, **kwargs) if fuse is not None else None
            if fused is not None:
                return fused
            if not torch.is_grad_enabled():  # also for what needs real memory, such as numpy()
                args, kwargs = _replace((args, kwargs), DeferredNorm.read)
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = _replace((args, kwargs or {}), DeferredNorm.read)
        return func(*args, **kwargs)


def deferred(normalization: Normalization) -> Tensor:
    """Return the result as a tensor whose values are computed when somebody reads them.

    ``normalization.x`` is in the kernels' layout.

    >>> from flash_pl.kernels.norm import Normalization
    >>> x, one, zero = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.ones(1), torch.zeros(1)
    >>> y = deferred(Normalization(x, one, zero, torch.tensor([2.0]), one, 0.0))
    >>> (y + x).relu().flatten(), y.flatten()
    (tensor([0., 4.]), tensor([-1.,  1.]))
    """
    if not torch.is_grad_enabled():
        return DeferredNorm.make(normalization)
    return normalization.node(lambda: DeferredNorm.make(normalization))


def settled(x: Tensor) -> Tensor:
    """Return ``x``, computed if it is deferred; differentiable."""
    x = _latest(x) if isinstance(x, DeferredNorm) else x
    if not isinstance(x, DeferredNorm):
        return x
    with torch._C.DisableTorchFunctionSubclass():
        if not torch.is_grad_enabled():
            return x.read()
        x._successor = x.normalization.compute() if x.unread else x.normalization.node(x.read)
        return x._successor


def _versions(norm: Normalization) -> list[int]:
    """Return how often each tensor has been changed in place."""
    tensors = norm.x, norm.weight, norm.bias, norm.mean, norm.variance, norm.added
    return [each._version for each in tensors if each is not None and not each.is_inference()]


def _replace(arguments: Any, function: Callable[[DeferredNorm], Tensor]) -> Any:
    """Return the same arguments with what ``function`` makes of deferred tensors, also in lists and dictionaries."""
    if isinstance(arguments, DeferredNorm):
        return function(arguments)
    if type(arguments) in (tuple, list):
        return type(arguments)(_replace(each, function) for each in arguments)
    if type(arguments) is dict:
        return {key: _replace(each, function) for key, each in arguments.items()}
    return arguments


def _latest(x: Tensor) -> Tensor:
    while isinstance(x, DeferredNorm) and x._successor is not None:
        x = x._successor
    return x


def _clamp(x: Any, limits: Limits, inplace: bool = False) -> Tensor | None:
    if not isinstance(x, DeferredNorm) or not x.unread or x.normalization.clamps:
        return None
    norm = x.normalization.clamped(limits)
    # A sum usually has several readers: the next block and its shortcut.
    y = deferred(norm) if norm.added is None else norm.compute() if torch.is_grad_enabled() else norm.values()
    if inplace:
        x._successor = y
    return y


def _relu(input: Any, inplace: bool = False) -> Tensor | None:
    return _clamp(input, RELU, inplace)


def _relu6(input: Any, inplace: bool = False) -> Tensor | None:
    return _clamp(input, RELU6, inplace)


def _hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor | None:
    return _clamp(input, (min_val, max_val), inplace)


def _add(input: Any, other: Any, *, alpha: float = 1, out: Tensor | None = None) -> Tensor | None:
    first, second = (input, other) if isinstance(input, DeferredNorm) else (other, input)
    return _sum(first, second) if alpha == 1 and out is None else None


def _add_(input: Any, other: Any, *, alpha: float = 1) -> Tensor | None:
    y = _sum(input, other) if alpha == 1 else None
    if y is not None:
        input._successor = y
    return y


def _sum(x: Any, other: Any) -> Tensor | None:
    """Return the deferred sum, if ``other`` is a tensor of the same kind and nothing has happened to ``x`` yet."""
    if not isinstance(x, DeferredNorm) or not x.unread:
        return None
    if x.normalization.added is not None or x.normalization.clamps or not isinstance(other, Tensor):
        return None
    if other.shape != x.shape or other.dtype != x.dtype or other.device != x.device:
        return None
    return deferred(x.normalization.plus(settled(other)))


_FUSED: dict[Any, Callable[..., Tensor | None]] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.__radd__: _add,
    Tensor.add_: _add_,
    Tensor.__iadd__: _add_,
}
