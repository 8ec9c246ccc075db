"""Integer sums of the kernels against exact arithmetic, and against torch."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.kernels import add_integers_, chunk_size
from flash_pl.kernels.fixed_point import _add_by_torch

values = st.lists(st.one_of(st.just(0.0), st.floats(-1e4, 1e4, width=32)), max_size=40)


@given(values, st.sampled_from([1.0, 2.0**20, 37 * 2.0**-3, 1e9]))
def test_every_term_is_the_nearest_integer(values, factor):
    sums = torch.full((len(values),), 7, dtype=torch.int64)
    add_integers_(sums, torch.tensor(values), factor)
    # The product is rounded to double precision before it is rounded to an integer; both round halves to even.
    assert sums.tolist() == [7 + round(Fraction(value * factor)) for value in values]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
def test_results_are_those_of_torch(threads, dtype, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    count = 2 * chunk_size(torch.device("cpu")) + 13
    x = (torch.randn(count) * (torch.rand(count) < 0.05) * 100).to(dtype)
    got, wanted = torch.arange(count), torch.arange(count)
    add_integers_(got, x, 1234.5)
    _add_by_torch(wanted, x, 1234.5)
    assert torch.equal(got, wanted)


def test_a_part_of_a_longer_vector():
    x, sums = torch.tensor([9.0, 0.5, 1.5, 2.5, 9.0]), torch.zeros(5, dtype=torch.int64)
    add_integers_(sums[1:4], x[1:4], 1.0)
    assert sums.tolist() == [0, 0, 2, 2, 0]


def test_values_with_gaps_are_left_to_torch():
    x, sums = torch.arange(6.0).view(3, 2)[:, 0], torch.zeros(3, dtype=torch.int64)
    add_integers_(sums, x, 1.0)
    assert sums.tolist() == [0, 2, 4]
