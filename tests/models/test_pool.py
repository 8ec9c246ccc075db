"""The fast max-pool returns what the plain one does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from flash_pl.models import MaxPool3x3


@given(height=st.integers(3, 12), width=st.integers(3, 12), seed=st.integers(0, 2**31))
def test_without_gradients_equals_max_pool2d(height: int, width: int, seed: int) -> None:
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        assert torch.equal(MaxPool3x3()(images), F.max_pool2d(images, 3, stride=1))


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
def test_special_values_spread_alike(special: float) -> None:
    images = torch.zeros(1, 1, 7, 7)
    images[0, 0, 3, 2] = special
    with torch.no_grad():
        torch.testing.assert_close(MaxPool3x3()(images), F.max_pool2d(images, 3, stride=1), equal_nan=True)


def test_gradient_equals_max_pool2d() -> None:
    images = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (ours,) = torch.autograd.grad(MaxPool3x3()(images).square().sum(), images)
    (theirs,) = torch.autograd.grad(F.max_pool2d(images, 3, stride=1).square().sum(), images)
    assert torch.equal(ours, theirs)
