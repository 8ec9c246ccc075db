"""Exact top-k and random choices, compared with sorting."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.seeding import generator
from flash_pl.sparsity import random_k, top_k


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.data())
def test_top_k_is_the_stable_sort(values, data):
    k = data.draw(st.integers(0, len(values)))
    best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    chosen = top_k(torch.tensor(values, dtype=torch.float32), k)
    assert chosen.nonzero().squeeze(1).tolist() == sorted(best)


def test_top_k_prefers_numbers_to_nan():
    assert top_k(torch.tensor([float("nan"), 1.0, 2.0, 0.0]), 3).tolist() == [False, True, True, True]


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 99), st.data())
def test_random_k_draws_exactly_k_of_the_candidates(candidates, seed, data):
    mask = torch.tensor(candidates)
    k = data.draw(st.integers(0, int(mask.sum())))
    chosen = random_k(mask, k, generator(seed, "test"))
    assert int(chosen.sum()) == k and bool((chosen <= mask).all())
    assert torch.equal(chosen, random_k(mask, k, generator(seed, "test")))
