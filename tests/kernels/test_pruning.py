"""Weights under a mask: the bits of torch's own products."""

import math

import pytest
import torch
from torch import Tensor

from flash_pl.kernels import largest_outside, masked_copy_, prune_
from flash_pl.kernels.library import SMALLEST_PART

SIZES = [0, 1, 15, 1024, 1025, 5000, 2 * SMALLEST_PART + 7]


def bits(x: Tensor) -> list[int]:
    return x.view(torch.int32).tolist()


def weights_and_mask(size: int, density: float = 0.3) -> tuple[Tensor, Tensor]:
    order = torch.Generator().manual_seed(size)
    weights, mask = torch.randn(size, generator=order), torch.rand(size, generator=order) < density
    if size > 20:
        special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45])
        weights[:7], weights[8:15], mask[:7], mask[8:15] = special, special, False, True
    return weights, mask


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 3])
def test_products_have_the_bits_of_torch(size: int, threads: int) -> None:
    weights, mask = weights_and_mask(size)
    expected, before = weights * mask, torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        copy, pruned = torch.full_like(weights, 7.0), weights.clone()
        masked_copy_(copy, weights, mask)
        prune_(pruned, mask)
    finally:
        torch.set_num_threads(before)
    assert bits(copy) == bits(expected)
    assert bits(pruned) == bits(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_torchs(dtype: torch.dtype) -> None:
    weights, mask = torch.randn(50).to(dtype), torch.rand(50) < 0.5
    copy, pruned = torch.empty_like(weights), weights.clone()
    masked_copy_(copy, weights, mask)
    prune_(pruned, mask)
    assert torch.equal(copy, weights * mask) and torch.equal(pruned, weights * mask)
    assert largest_outside(weights, mask) == float(weights[~mask].abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("value", [-3.0, 2.0**-149, math.inf, -math.nan])
def test_one_weight_outside_is_found(size: int, place: int, value: float) -> None:
    weights, mask = weights_and_mask(size)
    weights = torch.where(mask, weights, -0.0)
    assert largest_outside(weights, mask) == 0
    if size:
        weights[place], mask[place] = value, False
        assert largest_outside(weights, mask) == pytest.approx(abs(value), nan_ok=True, rel=0, abs=0)
        prune_(weights, mask)
        assert math.isnan(weights[place]) if not math.isfinite(value) else weights[place] == 0
