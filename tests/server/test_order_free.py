"""Sums in fixed point: exact in any order, close to the real sum, and closed to what does not fit."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.kernels import chunk_size
from flash_pl.server import OrderFreeSum
from flash_pl.server.aggregation import FRACTION, LIMIT

values = st.floats(-1e4, 1e4, width=32)
terms = st.lists(st.tuples(values, st.integers(1, 1000)), min_size=1, max_size=12)


def total(pairs, weight):
    units = torch.zeros(1, dtype=torch.int64)
    summed = OrderFreeSum(units, weight)
    for value, factor in pairs:
        summed.add(torch.tensor([value]), factor)
    return units, summed.value()


@given(terms, st.randoms())
def test_the_order_does_not_matter_and_parts_add_up(pairs, random):
    weight = sum(factor for _, factor in pairs)
    units, _ = total(pairs, weight)
    cut = random.randint(0, len(pairs))
    shuffled = random.sample(pairs, len(pairs))
    assert torch.equal(total(shuffled, weight)[0], units)
    assert torch.equal(total(pairs[:cut], weight)[0] + total(pairs[cut:], weight)[0], units)


@given(terms)
def test_the_mean_is_off_by_half_a_unit_per_term_at_most(pairs):
    weight = sum(factor for _, factor in pairs)
    exact = sum(Fraction(value) * factor for value, factor in pairs) / weight
    mean = Fraction(float(total(pairs, weight)[1])) / weight
    unit = Fraction(1, 2**FRACTION)  # of the mean, where the weight is a power of two; else smaller by up to a half
    rounding = abs(exact) * Fraction(1, 2**52)  # of the result to double precision
    assert abs(mean - exact) <= len(pairs) * unit + rounding


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, LIMIT, -LIMIT, 1e30])
def test_what_does_not_fit_changes_nothing(bad):
    units = torch.zeros(3, dtype=torch.int64)
    summed = OrderFreeSum(units, 10)
    summed.add(torch.ones(3), 4)
    before = units.clone()
    with pytest.raises(OverflowError):
        summed.add(torch.tensor([1.0, bad, 2.0]), 4)
    assert torch.equal(units, before)


def test_the_largest_mean_fits_for_every_weight():
    largest = LIMIT - 0.25  # the float32 before it
    for weight in (1, 3, 1000, 2**20 + 1):
        units, summed = total([(largest, weight)], weight)
        assert 0 < units < 2**62 + 1 and float(summed) == pytest.approx(largest * weight, rel=1e-7)


def test_long_tensors_are_summed_in_pieces():
    x = torch.randn(2 * chunk_size(torch.device("cpu")) + 7)
    summed = OrderFreeSum(torch.zeros(len(x), dtype=torch.int64), 3)
    summed.add(x, 1)
    summed.add(x, 2)
    torch.testing.assert_close(summed.value(), 3 * x.double(), rtol=0, atol=1e-11)
