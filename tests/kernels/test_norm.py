"""Batch normalization against torch in float64."""

import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels import Normalization, moments
from flash_pl.kernels.layout import batch_innermost
from flash_pl.kernels.library import Library
from flash_pl.kernels.norm import NO_LIMITS, RELU, RELU6, Limits


def torchs(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, added: Tensor | None, limits: Limits) -> Tensor:
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=epsilon)
    y = y if added is None else y + added
    return y if limits is NO_LIMITS else y.relu() if limits is RELU else F.relu6(y)


@pytest.mark.parametrize("seed", range(100))
def test_output_statistics_and_gradients_equal_torch_in_float64(native: Library, seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    native.use(draw.choice(native.isas()))
    torch.set_num_threads(draw.choice([1, 2]))
    # the last one has the channels of a pixel next to each other
    shape = draw.choice(
        [(draw.randint(1, 40), draw.randint(1, 40), draw.randint(1, 17), draw.randint(2, 20)), (32, 64, 8, 8)]
    )
    offset = draw.choice([0.0, 3.0, 1000.0])  # the variance must be exact for a mean far from 0
    limits = draw.choice([NO_LIMITS, RELU, RELU6])
    x, dy = torch.randn(shape) + offset, torch.randn(shape)
    layout = draw.choice([batch_innermost, lambda x: x.to(memory_format=torch.channels_last), lambda x: x])
    x, dy = layout(x), layout(dy)
    added = draw.choice([torch.randn(shape), batch_innermost(torch.randn(shape)), None])
    weight, bias, epsilon = torch.randn(shape[1]), torch.randn(shape[1]), draw.choice([1e-5, 1e-2])
    tensors = [each for each in (x, weight, bias, added) if each is not None]
    leaves = [each.clone(memory_format=torch.preserve_format).requires_grad_() for each in tensors]
    references = [each.double().requires_grad_() for each in tensors]

    mean, variance = moments(leaves[0])
    y = Normalization(*leaves[:3], mean, variance, epsilon, *leaves[3:] or [None], limits=limits).compute()
    expected = torchs(*references[:3], epsilon, *references[3:] or [None], limits=limits)
    unclamped = torchs(*references[:3], epsilon, *references[3:] or [None], limits=NO_LIMITS)
    # Rounding decides about elements next to a limit.
    dy = dy * (((unclamped - 0).abs() > 1e-3) & ((unclamped - 6).abs() > 1e-3)).float()
    y.backward(dy)
    expected.backward(dy.double())

    near = {"rtol": 1e-4, "atol": 1e-5 * max(1.0, offset)}  # float32 has a mean of 1000 to 3e-5
    torch.testing.assert_close(y.double(), expected, **near)
    torch.testing.assert_close(mean.double(), x.double().mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance.double(), x.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-6)
    for leaf, reference in zip(leaves, references, strict=True):
        assert leaf.grad is not None and reference.grad is not None
        torch.testing.assert_close(leaf.grad.double(), reference.grad, rtol=1e-3, atol=1e-4 * max(1.0, offset / 10))


@pytest.mark.parametrize("shape", [(8, 13, 6, 7), (32, 70, 8, 8)])
def test_bits_do_not_depend_on_the_number_of_threads(native: Library, shape: tuple[int, ...]) -> None:
    x, weight, bias = torch.randn(shape), torch.randn(shape[1]), torch.randn(shape[1])
    runs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        mean, variance = moments(leaf)
        y = Normalization(leaf, weight, bias, mean, variance, limits=RELU).compute()
        y.square().sum().backward()
        runs.append([y.detach(), mean, variance, leaf.grad])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


def test_channels_that_do_not_fit_and_single_values_are_refused(native: Library) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Normalization(torch.randn(2, 3, 4, 4), torch.ones(4), torch.zeros(4), torch.zeros(4), torch.ones(4))
    with pytest.raises(ValueError, match="less than two values"):
        Normalization(torch.randn(1, 3, 1, 1), *(torch.ones(3) for _ in range(4)))
    with pytest.raises(ValueError, match="cannot be added"):
        Normalization(torch.randn(2, 3, 4, 4), *(torch.ones(3) for _ in range(4)), added=torch.ones(2, 3, 4, 1))


@pytest.mark.parametrize("limits", [NO_LIMITS, RELU])
@pytest.mark.parametrize("adds", [False, True])
def test_second_derivatives_equal_torchs(native: Library, limits: Limits, adds: bool) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(6, 3, 5, 5), torch.randn(3), torch.randn(3), torch.randn(6, 3, 5, 5)
    found = []
    for kernels in (True, False):
        x, weight, bias, added = leaves = [value.clone().requires_grad_() for value in inputs]
        other = added if adds else None
        if kernels:
            y = Normalization(x, weight, bias, *moments(x), added=other, limits=limits).compute()
        else:
            y = torchs(x, weight, bias, 1e-5, other, limits)
        asked = leaves if adds else leaves[:3]
        first = torch.autograd.grad(y.pow(3).sum(), asked, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(value.square().sum() for value in first), asked)])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
