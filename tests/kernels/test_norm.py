"""Batch normalization against torch in float64."""

import random

import pytest
import torch
from torch.nn import functional as F

from flash_pl.kernels import batch_norm
from flash_pl.kernels.library import Library


@pytest.mark.parametrize("seed", range(60))
def test_output_statistics_and_gradients_equal_torch_in_float64(native: Library, seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    native.use(draw.choice(native.isas()))
    torch.set_num_threads(draw.choice([1, 2]))
    shape = (draw.randint(1, 40), draw.randint(1, 9), draw.randint(1, 17), draw.randint(2, 40))
    offset = draw.choice([0.0, 3.0, 1000.0])  # the variance must be exact for a mean far from 0
    x, dy = torch.randn(shape) + offset, torch.randn(shape)
    if seed % 3 == 0:
        x, dy = (each.to(memory_format=torch.channels_last) for each in (x, dy))
    weight, bias, epsilon = torch.randn(shape[1]), torch.randn(shape[1]), draw.choice([1e-5, 1e-2])
    leaves = [each.clone().requires_grad_() for each in (x, weight, bias)]
    references = [each.double().requires_grad_() for each in (x, weight, bias)]

    y, mean, variance = batch_norm(*leaves, epsilon)
    expected = F.batch_norm(references[0], None, None, references[1], references[2], training=True, eps=epsilon)
    y.backward(dy)
    expected.backward(dy.double())

    near = {"rtol": 1e-4, "atol": 1e-5 * max(1.0, offset)}  # float32 has a mean of 1000 to 3e-5
    torch.testing.assert_close(y.double(), expected, **near)
    torch.testing.assert_close(mean.double(), x.double().mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance.double(), x.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-6)
    for leaf, reference in zip(leaves, references, strict=True):
        assert leaf.grad is not None and reference.grad is not None
        torch.testing.assert_close(leaf.grad.double(), reference.grad, rtol=1e-3, atol=1e-4 * max(1.0, offset / 10))


def test_bits_do_not_depend_on_the_number_of_threads(native: Library) -> None:
    x, weight, bias = torch.randn(8, 13, 6, 7), torch.randn(13), torch.randn(13)
    runs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        y, mean, variance = batch_norm(leaf, weight, bias)
        y.square().sum().backward()
        runs.append([y.detach(), mean, variance, leaf.grad])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


def test_channels_that_do_not_fit_and_single_values_are_refused(native: Library) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        batch_norm(torch.randn(2, 3, 4, 4), torch.ones(4), torch.zeros(4))
    with pytest.raises(ValueError, match="less than two values"):
        batch_norm(torch.randn(1, 3, 1, 1), torch.ones(3), torch.zeros(3))


def test_second_derivatives_equal_torchs(native: Library) -> None:
    inputs, found = (torch.randn(6, 3, 5, 5), torch.randn(3), torch.randn(3)), []
    for norm in (lambda *leaves: batch_norm(*leaves)[0], lambda x, w, b: F.batch_norm(x, None, None, w, b, True)):
        leaves = [value.clone().requires_grad_() for value in inputs]
        first = torch.autograd.grad(norm(*leaves).pow(3).sum(), leaves, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(value.square().sum() for value in first), leaves)])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
