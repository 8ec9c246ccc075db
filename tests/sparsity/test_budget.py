"""Tiers: nested masks with exact counts, who belongs to which, what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flash_pl.errors import ConfigError
from flash_pl.seeding import generator
from flash_pl.sparsity import (
    ExactDraw,
    FileBudget,
    Layout,
    PositionBudget,
    SparsityBudget,
    Tier,
    Uniform,
    nested_masks,
)

LAYOUT = Layout(nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 7), nn.Linear(7, 3)))
WEIGHTS = torch.zeros(LAYOUT.size)  # random draws do not look at them
TIERS = [Tier(0.05, 0.3), Tier(0.075, 0.3), Tier(0.1, 0.4)]


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=4, unique=True), st.floats(0.02, 0.98), st.integers(0, 9999))
def test_masks_are_nested_with_exact_counts(levels, density, seed):
    budget = SparsityBudget([Tier(level, 1 / len(levels)) for level in sorted(levels)])
    mask = ExactDraw()(LAYOUT, WEIGHTS, Uniform()(LAYOUT, density), generator(seed, "mask"))
    weights = torch.randn(LAYOUT.size, generator=generator(seed, "weights"))
    masks = nested_masks(LAYOUT, mask, weights, budget.ratios)
    assert masks[-1] is mask and len(masks) == len(levels)
    total = LAYOUT.counts(mask)
    for smaller, larger in zip(masks, masks[1:], strict=False):
        assert bool((smaller <= larger).all())
        for inside, outside, size in zip(
            LAYOUT.split(smaller), LAYOUT.split(larger), LAYOUT.split(weights), strict=True
        ):
            gone = outside & ~inside
            if gone.any() and inside.any():
                assert size[gone].abs().max() <= size[inside].abs().min()
    for ratio, nested in zip(budget.ratios, masks, strict=True):
        counts = LAYOUT.counts(nested)
        assert int(counts.sum()) == round(ratio * int(total.sum()))
        # In proportion to the largest mask's layers, but for rounding, no layer empty while the total allows it.
        if int(counts.sum()) >= len(total):
            assert bool((counts >= total.clamp(max=1)).all())
            assert bool(((counts - ratio * total).abs() < len(total) + 1).all())


def test_clients_belong_to_tiers_by_share_for_life():
    budget = SparsityBudget(TIERS)
    members = budget.members(10, seed=3)
    assert sorted(members) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2] and members == budget.members(10, seed=3)
    assert any(budget.members(10, seed) != members for seed in range(3))
    assert budget.tiers_of([4, 2], members, round=7) == [members[4], members[2]]


def test_the_authors_tiers_go_by_position_after_a_full_first_round():
    budget = PositionBudget(TIERS)
    assert budget.members(100, seed=1) is None
    assert budget.tiers_of(range(10), None, round=0) == [2] * 10
    assert budget.tiers_of(range(10), None, round=1) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert budget.tiers_of(range(4), None, round=1) == [0, 1, 2, 2]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])  # the latter is what Excel writes
def test_a_file_gives_every_client_its_density(tmp_path, encoding):
    (tmp_path / "fleet.csv").write_text("client,density\n1,0.05\n0,0.1\n2,0.1\n3,0.1\n", encoding=encoding)
    budget = FileBudget(tmp_path / "fleet.csv")
    assert budget.tiers == (Tier(0.05, 0.25), Tier(0.1, 0.75)) and budget.density == 0.1
    assert budget.members(4, seed=9) == [1, 0, 1, 1]
    with pytest.raises(ConfigError, match="clients 0 to 4; see 4"):
        budget.members(5, seed=9)
    with pytest.raises(ConfigError, match="clients 0 to 2; see 3"):
        budget.members(3, seed=9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("client,density\n0,0.1\n0,0.2\n", "see line 3"),
        ("client,density\n0,1.5\n", "see line 2"),
        ("client,density\nzero,0.5\n", "see line 2"),
        ("id,density\n0,0.5\n", "see line 2"),
        ("client,density\n0\n", "see line 2"),
        ("client,density\n", "a line for each client"),
        ("", "a line for each client"),
    ],
)
def test_a_file_that_is_no_budget_is_named(tmp_path, text, words):
    (tmp_path / "fleet.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        FileBudget(tmp_path / "fleet.csv")


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match="path: 'nowhere.csv'"):
        FileBudget("nowhere.csv")


@pytest.mark.parametrize(
    ("tiers", "words"),
    [
        ([], r"densities in \(0, 1\]"),
        ([Tier(0.2, 0.5), Tier(0.1, 0.5)], "increase"),
        ([Tier(0.1, 0.5), Tier(1.5, 0.5)], r"densities in \(0, 1\]"),
        ([Tier(0.1, 0.5), Tier(0.2, 0.6)], "sum to 1"),
        ([Tier(0.1, -0.5), Tier(0.2, 1.5)], "above 0"),
    ],
)
def test_impossible_tiers_are_named(tiers, words):
    with pytest.raises(ConfigError, match=words):
        SparsityBudget(tiers)
