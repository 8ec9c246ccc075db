"""Deferred normalizations: whatever reads them finds the values of torch, and gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flash_pl.kernels import Normalization, deferred, moments, settled
from flash_pl.kernels.deferred_norm import DeferredNorm
from flash_pl.kernels.layout import batch_innermost
from flash_pl.kernels.library import Library


class Same(torch.autograd.Function):
    """Returns its input itself, without reading it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return 2 * dy


class Innermost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return batch_innermost(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


def ignoring_the_result(y: Tensor, other: Tensor) -> Tensor:
    F.relu(y, inplace=True)
    return y * other


READERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda y, other: F.relu(y),
    "relu of a sum": lambda y, other: F.relu(y + other),
    "relu of a sum with an expanded tensor": lambda y, other: F.relu(y + other[:, :1]),
    "sum in place": lambda y, other: F.relu(y.add_(other)),
    "assigned sum": lambda y, other: torch.relu(other + y) - other,
    "relu6 of a sum": lambda y, other: F.relu6(other + y),
    "hardtanh": lambda y, other: F.hardtanh(y, -0.5, 0.7),
    "scaled sum": lambda y, other: torch.add(y, other, alpha=2),
    "relu in place": lambda y, other: nn.ReLU(inplace=True)(y) + other,
    "relu in place, result ignored": ignoring_the_result,
    "relu and itself": lambda y, other: y.relu() + y * other,
    "itself and relu": lambda y, other: y * other + y.relu(),
    "twice": lambda y, other: F.relu(y) * F.relu(y) + F.relu(F.relu(y)),
    "leaky": lambda y, other: F.leaky_relu(y, 0.1),
    "function that returns its input": lambda y, other: Same.apply(y) * other,
    "function of a relu": lambda y, other: Same.apply(y.relu()) * other,
    "list": lambda y, other: torch.cat([y, other, y.relu()]),
    "pool": lambda y, other: F.max_pool2d(F.relu(y), 2),
    "sum with another": lambda y, other: F.relu(y + y),
    "detached": lambda y, other: y.detach() * other + y.square(),
    "view": lambda y, other: y.flatten(1)[:, ::2].exp().sum(0),
    "index": lambda y, other: y[1] * other[0],
}


@pytest.mark.parametrize("shape", [(32, 64, 4, 4), (5, 3, 7, 6)])
@pytest.mark.parametrize("name", READERS)
def test_values_and_gradients_equal_torchs(native: Library, name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(shape) * 3 + 1, torch.rand(shape[1]) + 0.5, torch.randn(shape[1]), torch.randn(shape)
    found = []
    for kernels in (True, False):
        x, weight, bias, other = leaves = [each.clone().requires_grad_() for each in inputs]
        if kernels:
            images = Innermost.apply(x)
            y = deferred(Normalization(images, weight, bias, *moments(images)))
            assert isinstance(y, DeferredNorm) and y.shape == x.shape
        else:
            y = F.batch_norm(x, None, None, weight, bias, training=True)
        result = READERS[name](y, other)
        result.backward(torch.arange(result.numel()).view(result.shape).remainder(7.0) - 3)
        found.append([result.detach(), *(each.grad for each in leaves)])
    for value, expected in zip(*found, strict=True):
        assert (value is None) == (expected is None)
        if value is not None:
            assert (value - expected).abs().max() <= 1e-5 * (1 + expected.abs().max())


def test_without_gradients_everything_reads_values(native: Library) -> None:
    x = batch_innermost(torch.randn(4, 3, 5, 5))
    norm = Normalization(x, torch.ones(3), torch.zeros(3), *moments(x))
    expected = F.batch_norm(x, None, None, training=True)
    with torch.no_grad():
        y = deferred(norm)
        assert isinstance(y, DeferredNorm)
        torch.testing.assert_close(torch.from_numpy(np.asarray(y.numpy())), expected)
        torch.testing.assert_close(F.relu(deferred(norm)) * 1, expected.relu())
        torch.testing.assert_close(settled(deferred(norm)), expected)
        assert type(y * 1) is Tensor and y.data_ptr() != 0


def test_what_is_read_without_gradients_has_a_gradient_later(native: Library) -> None:
    x = batch_innermost(torch.randn(4, 3, 5, 5)).requires_grad_()
    y = deferred(Normalization(x, torch.ones(3), torch.zeros(3), *moments(x)))
    with torch.no_grad():
        before = y.sum()
    y.square().sum().backward()
    assert x.grad is not None and torch.isfinite(before)


def test_nothing_is_computed_before_somebody_reads(native: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[Normalization] = []
    values = Normalization.values
    monkeypatch.setattr(Normalization, "values", lambda norm: computed.append(norm) or values(norm))
    x = batch_innermost(torch.randn(4, 3, 5, 5)).requires_grad_()
    y = F.relu(deferred(Normalization(x, torch.ones(3), torch.zeros(3), *moments(x))) + x)
    assert len(computed) == 1 and computed[0].clamps and computed[0].added is not None and type(y) is Tensor


@pytest.mark.parametrize("grad", [True, False])
def test_an_input_that_changes_before_it_is_read_is_an_error(native: Library, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        x = batch_innermost(torch.randn(4, 3, 5, 5))
        y = deferred(Normalization(x, torch.ones(3), torch.zeros(3), *moments(x)))
        x.add_(1)
        with pytest.raises(RuntimeError, match="changed in place"):
            F.relu(y).sum()
