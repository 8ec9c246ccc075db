"""Max-pooling against torch, bit for bit."""

import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels import max_pool2d
from flash_pl.kernels.layout import batch_innermost
from flash_pl.kernels.library import Library


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.int32)


@pytest.mark.parametrize("seed", range(150))
def test_output_and_gradient_equal_torch_bit_for_bit(native: Library, seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    native.use(draw.choice(native.isas()))
    torch.set_num_threads(draw.choice([1, 2]))
    kernel = draw.choice([(3, 3), (2, 2), (draw.randint(1, 4), draw.randint(1, 5))])
    stride = draw.choice([(1, 1), (2, 2), (draw.randint(1, 3), draw.randint(1, 3))])
    padding = draw.choice([(0, 0), (draw.randint(0, kernel[0] // 2), draw.randint(0, kernel[1] // 2))])
    shape = (draw.choice([1, 3, 16, 20, 32]), draw.choice([1, 3, 32]), draw.randint(4, 16), draw.randint(5, 16))
    x = torch.randint(0, 3, shape).float() if seed % 2 else torch.randn(shape)  # many ties
    if seed % 3 == 0:
        x[torch.rand(shape) < 0.1] = float("nan")
    if seed % 5 == 0:
        x[torch.rand(shape) < 0.6] = -float("inf")
    if seed % 7 == 0:
        x = x.to(memory_format=torch.channels_last)
    if seed % 2 == 0:
        x = batch_innermost(x)
    leaf, reference = (x.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    y = max_pool2d(leaf, kernel, stride, padding)
    expected = F.max_pool2d(reference.contiguous(), kernel, stride, padding)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    assert leaf.grad is not None and reference.grad is not None
    assert torch.equal(bits(y), bits(expected))
    assert torch.equal(bits(leaf.grad), bits(reference.grad))


@pytest.mark.parametrize(("kernel", "padding"), [(16, 0), (3, 2), (0, 0), (9, 1)])
def test_unsupported_windows_are_refused(native: Library, kernel: int, padding: int) -> None:
    with pytest.raises(ValueError, match="window"):
        max_pool2d(torch.randn(1, 1, 6, 6), kernel, 1, padding)


def test_second_derivatives_equal_torchs(native: Library) -> None:
    x, found = torch.randn(4, 3, 9, 11), []
    for pool in (max_pool2d, F.max_pool2d):
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(pool(leaf.tanh(), 3, 2, 1).pow(3).sum(), leaf, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), leaf)))
    torch.testing.assert_close(*found)
