"""The max-pool has torch's bits, whatever is in the image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from flash_pl.kernels import available, max_pool2d

pytestmark = pytest.mark.skipif(not available(), reason="installed without a compiler")


@st.composite
def windows(draw):
    kernel, stride = (draw(st.tuples(*[st.integers(1, high)] * 2)) for high in (5, 3))
    padding = tuple(draw(st.integers(0, size // 2)) for size in kernel)
    sides = [draw(st.integers(max(1, k - 2 * p), 40)) for k, p in zip(kernel, padding, strict=True)]
    return sides, kernel, stride, padding


@settings(max_examples=200, deadline=None)
@given(windows(), st.integers(1, 4), st.integers(0, 99), st.sampled_from([None, "nan", "inf", "-inf"]), st.booleans())
def test_values_and_gradients(window, planes, seed, special, channels_last):
    sides, kernel, stride, padding = window
    draws = torch.Generator().manual_seed(seed)
    x = (2 * torch.randn(2, planes, *sides, generator=draws)).round()  # with many ties
    if special is not None:
        x[torch.rand(x.shape, generator=draws) < 0.1] = float(special)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    ours, theirs = x.clone().requires_grad_(), x.clone().contiguous().requires_grad_()
    y, expected = max_pool2d(ours, kernel, stride, padding), F.max_pool2d(theirs, kernel, stride, padding)
    dy = torch.randn(y.shape, generator=draws)
    y.backward(dy)
    expected.backward(dy)
    assert torch.equal(y.view(torch.int32), expected.view(torch.int32))
    assert torch.equal(ours.grad.contiguous().view(torch.int32), theirs.grad.view(torch.int32))
