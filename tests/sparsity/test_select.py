"""Exact top-k and random choices, compared with sorting."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flash_pl.client.recorder import WaitWatch
from flash_pl.seeding import generator
from flash_pl.sparsity import Layout, kth_largest, random_k, random_k_by_layer, top_k
from flash_pl.sparsity.select import _first_of_equal, _random_k_by_rank


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.data())
def test_top_k_is_the_start_of_a_stable_sort(values, data):
    k = data.draw(st.integers(0, len(values)))
    best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    chosen = top_k(torch.tensor(values, dtype=torch.float32), k)
    assert chosen.nonzero().squeeze(1).tolist() == sorted(best)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_kth_largest_equals_a_sort(dtype):
    values = (torch.randn(50, generator=torch.Generator().manual_seed(1)) * 5).to(dtype)
    values[3], values[7] = values[11], values[0]
    if dtype.is_floating_point:
        values[20] = -torch.inf
    ordered = values.sort(descending=True).values
    assert all(kth_largest(values, k) == ordered[k - 1] and kth_largest(values, k).dtype == dtype for k in range(1, 51))


@pytest.mark.parametrize("equal", [0, 5, 6, 30, 49, 50])
def test_kth_largest_if_many_values_are_the_smallest(equal):
    values = torch.rand(50, generator=torch.Generator().manual_seed(1)) + 1
    values[torch.randperm(50, generator=torch.Generator().manual_seed(2))[:equal]] = 0
    ordered = values.sort(descending=True).values
    assert all(kth_largest(values, k) == ordered[k - 1] for k in range(1, 51))


def test_top_k_prefers_numbers_to_nan():
    assert top_k(torch.tensor([float("nan"), 1.0, 2.0, 0.0]), 3).tolist() == [False, True, True, True]


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 99), st.data())
def test_random_k_draws_exactly_k_of_the_candidates(candidates, seed, data):
    mask = torch.tensor(candidates)
    k = data.draw(st.integers(0, int(mask.sum())))
    chosen = random_k(mask, k, generator(seed, "test"))
    assert int(chosen.sum()) == k and bool((chosen <= mask).all())
    assert torch.equal(chosen, random_k(mask, k, generator(seed, "test")))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.data())
def test_on_a_gpu_the_same_weights_are_chosen_without_waiting(values, data):
    scores = torch.tensor(values, dtype=torch.float32)
    k = data.draw(st.integers(1, len(values)))
    threshold = kth_largest(scores, k)
    with WaitWatch() as watch:
        chosen = _first_of_equal(scores, k, threshold)
    assert torch.equal(chosen, top_k(scores, k)) and watch.found is None


@given(st.lists(st.booleans(), min_size=60, max_size=60), st.data())
def test_on_a_gpu_the_same_weights_are_drawn(candidates, data):
    mask = torch.tensor(candidates)
    layout = Layout(
        nn.Sequential(nn.Linear(5, 8, bias=False), nn.Linear(8, 1, bias=False), nn.Linear(6, 2, bias=False))
    )
    counts = torch.tensor([data.draw(st.integers(0, count)) for count in layout.counts(mask).tolist()])
    draws = [generator(1, "draw") for _ in range(2)]
    drawn = _random_k_by_rank(layout, mask, counts, draws[0])
    assert torch.equal(drawn, random_k_by_layer(layout, mask, counts, draws[1]))
    assert torch.equal(layout.counts(drawn), counts) and torch.equal(draws[0].get_state(), draws[1].get_state())
