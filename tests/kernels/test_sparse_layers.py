"""Sparse convolutions and linear layers compute what torch computes in float64, at the weights that are there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels import Pattern, available, sparse_conv2d, sparse_linear
from flash_pl.kernels import pattern as pattern_module
from flash_pl.kernels.plan import VECTOR
from flash_pl.kernels.threads import cuts

pytestmark = pytest.mark.skipif(not available(), reason="installed without a compiler")
PLANS = st.sampled_from([None, (1, VECTOR), (1, 2 * VECTOR), (1, 1), (2, 1), (5, 1), (32, 1)])
DENSITIES = st.sampled_from([0.0, 0.05, 0.3, 1.0])


@st.composite
def convolutions(draw):
    kernel, stride, padding = (draw(st.tuples(*[st.integers(low, high)] * 2)) for low, high in ((1, 5), (1, 3), (0, 3)))
    sides = [draw(st.integers(max(1, k - 2 * p), 14)) for k, p in zip(kernel, padding, strict=True)]
    batch = draw(st.sampled_from([1, 2, 5, 16, 17, 32, 33, 65]))
    return batch, draw(st.integers(1, 7)), sides, draw(st.integers(1, 9)), kernel, stride, padding


def tensors(shape, density: float, seed: int, channels_last: bool, bias: bool) -> tuple[list[Tensor], Tensor]:
    batch, channels, sides, outputs, kernel, *_ = shape
    draws = torch.Generator().manual_seed(seed)
    format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(batch, channels, *sides, generator=draws).to(memory_format=format)
    weight = torch.randn(outputs, channels, *kernel, generator=draws).to(memory_format=format)
    mask = torch.empty_like(weight, dtype=torch.bool).copy_(torch.rand(weight.shape, generator=draws) < density)
    found = [x, weight * mask] + ([torch.randn(outputs, generator=draws)] if bias else [])
    return [tensor.requires_grad_() for tensor in found], mask


def close(ours: Tensor, expected: Tensor) -> None:
    ours, expected = ours.detach(), expected.detach()
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4 * max(1.0, float(expected.abs().max())))


@settings(max_examples=150, deadline=None)
@given(convolutions(), DENSITIES, st.integers(0, 99), st.booleans(), st.booleans(), PLANS)
def test_a_convolution_and_its_gradients(shape, density, seed, channels_last, bias, plan):
    inputs, mask = tensors(shape, density, seed, channels_last, bias)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    *_, stride, padding = shape
    with pytest.MonkeyPatch.context() as patch:
        if plan is not None:
            patch.setattr(pattern_module, "choose", lambda shape: plan)
        y = sparse_conv2d(*inputs[:2], inputs[2] if bias else None, Pattern(mask), stride, padding)
        expected = F.conv2d(*exact[:2], exact[2] if bias else None, stride, padding)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
        y.backward(dy)
    expected.backward(dy.double())
    close(y, expected)
    close(inputs[0].grad, exact[0].grad)
    close(inputs[1].grad, exact[1].grad * mask)
    assert not inputs[1].grad[~mask].any() and inputs[1].grad.stride() == inputs[1].stride()
    if bias:
        close(inputs[2].grad, exact[2].grad)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 9), DENSITIES, st.integers(0, 99), st.booleans())
def test_a_linear_layer_and_its_gradients(batch, inputs, outputs, density, seed, bias):
    found, mask = tensors((batch, inputs, [1, 1], outputs, (1, 1)), density, seed, False, bias)
    x, weight = (found[0].detach().flatten(1).requires_grad_(), found[1].detach().flatten(1).requires_grad_())
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight, *found[2:])]
    y = sparse_linear(x, weight, found[2] if bias else None, Pattern(mask.flatten(1)))
    expected = F.linear(*exact)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    for ours, theirs in ((y, expected), (x.grad, exact[0].grad), (weight.grad, exact[1].grad * mask.flatten(1))):
        close(ours, theirs)


def test_a_linear_layer_takes_any_leading_dimensions():
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    x, weight = torch.randn(2, 3, 7), torch.randn(5, 7) * mask
    close(sparse_linear(x, weight, None, Pattern(mask)), F.linear(x.double(), weight.double()))


def test_gradients_that_nobody_wants_are_not_computed():
    inputs, mask = tensors((4, 3, [6, 6], 5, (3, 3)), 0.3, 0, False, True)
    x = inputs[0].detach()
    sparse_conv2d(x, inputs[1], inputs[2].detach(), Pattern(mask)).sum().backward()
    assert x.grad is None and inputs[1].grad is not None
    with torch.no_grad():
        assert not sparse_conv2d(*inputs, Pattern(mask)).requires_grad


@pytest.mark.parametrize("batch, sides", [(32, [12, 12]), (3, [40, 40])])
def test_threads_do_not_show_in_the_bits(batch, sides):
    shape = (batch, 6, sides, 10, (3, 3), (1, 1), (1, 1))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            inputs, mask = tensors(shape, 0.2, 1, False, True)
            y = sparse_conv2d(*inputs, Pattern(mask), (1, 1), (1, 1))
            (y * y).sum().backward()
        finally:
            torch.set_num_threads(1)
        found.append([y.detach(), *(tensor.grad for tensor in inputs)])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_heavy_rows_are_shared_out():
    assert cuts([5, 1, 1, 1, 5], 3) == [0, 1, 4, 5]
    assert cuts([], 2) == [0, 0, 0] and cuts([0, 0], 2)[-1] == 2


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline", "mmx"])
def test_every_instruction_set_of_the_machine(isa):
    """In a process of its own: the choice is made once."""
    code = "import test_sparse_layers as t; t.test_threads_do_not_show_in_the_bits(32, [12, 12]);"
    code += "t.test_a_convolution_and_its_gradients(); t.test_a_linear_layer_and_its_gradients()"
    environment = os.environ | {"FLASH_PL_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    lacking = f"FLASH_PL_ISA: '{isa}' is not allowed" in done.stderr
    assert done.returncode == 0 or lacking, done.stderr
    assert lacking or isa != "mmx"
