"""Numbers of torch's generator are torch's own, whether the library draws them or torch, and so is the state."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.kernels import twister
from flash_pl.sparsity.permutation import first_of_permutation

WAYS = {"by states": twister._by_states, "by torch": twister._by_torch}


@pytest.mark.kernels
@given(st.integers(0, 2**63 - 1), st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 1500)), max_size=5))
def test_both_ways_draw_the_same(seed, draws):
    ours, reference = (torch.Generator().manual_seed(seed) for _ in range(2))
    for count, wanted in draws:
        wanted = max(0, min(count - 1, wanted))
        assert (twister._by_states(ours, count, wanted) == twister._by_torch(reference, count, wanted)).all()
        assert torch.equal(ours.get_state(), reference.get_state())
    assert torch.equal(torch.randn(3, generator=ours), torch.randn(3, generator=reference))


@pytest.mark.kernels
def test_the_installed_torch_arranges_its_state_as_expected():
    """Otherwise torch would draw the numbers, with the same results and ten times slower."""
    assert twister._knows_states()


@pytest.mark.kernels
def test_another_arrangement_is_noticed(monkeypatch):
    twister._knows_states.cache_clear()
    monkeypatch.setattr(twister, "LEFT", slice(12, 16))
    assert not twister._knows_states()
    twister._knows_states.cache_clear()


@pytest.mark.parametrize("way", [pytest.param("by states", marks=pytest.mark.kernels), "by torch"])
def test_a_permutation_needs_no_library(way, monkeypatch):
    monkeypatch.setattr(twister, "_knows_states", lambda: way == "by states")
    ours, reference = (torch.Generator().manual_seed(3) for _ in range(2))
    for n in (2, 1001, 40_000):
        assert torch.equal(first_of_permutation(n, n // 9, ours), torch.randperm(n, generator=reference)[: n // 9])
    assert torch.equal(ours.get_state(), reference.get_state())
