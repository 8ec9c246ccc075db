"""Tiers: nested masks with exact counts, the tier of each client, and invalid tiers and files."""

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
WEIGHTS = torch.zeros(LAYOUT.size)  # random draws ignore the weights
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
            removed = outside & ~inside
            if removed.any() and inside.any():
                assert size[removed].abs().max() <= size[inside].abs().min()
    for ratio, nested in zip(budget.ratios, masks, strict=True):
        counts = LAYOUT.counts(nested)
        assert int(counts.sum()) == round(ratio * int(total.sum()))
        # In proportion to the layers of the largest mask, except for rounding; no layer is empty if possible.
        if int(counts.sum()) >= len(total):
            assert bool((counts >= total.clamp(max=1)).all())
            assert bool(((counts - ratio * total).abs() < len(total) + 1).all())


def test_clients_stay_in_tiers_whose_sizes_follow_the_shares():
    budget = SparsityBudget(TIERS)
    tiers = budget.assign_tiers(10, seed=3)
    assert sorted(tiers) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2] and tiers == budget.assign_tiers(10, seed=3)
    assert any(budget.assign_tiers(10, seed) != tiers for seed in range(3))
    assert budget.tiers_of([4, 2], tiers, round=7) == [tiers[4], tiers[2]]


def test_the_authors_tiers_go_by_position_after_a_full_first_round():
    budget = PositionBudget(TIERS)
    assert budget.assign_tiers(100, seed=1) is None
    assert budget.tiers_of(range(10), None, round=0) == [2] * 10
    assert budget.tiers_of(range(10), None, round=1) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert budget.tiers_of(range(4), None, round=1) == [0, 1, 2, 2]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])  # the latter is what Excel writes
def test_a_file_gives_every_client_its_density(tmp_path, encoding):
    (tmp_path / "fleet.csv").write_text("client,density\n1,0.05\n0,0.1\n2,0.1\n3,0.1\n", encoding=encoding)
    budget = FileBudget(tmp_path / "fleet.csv")
    assert budget.tiers == (Tier(0.05, 0.25), Tier(0.1, 0.75)) and budget.density == 0.1
    assert budget.assign_tiers(4, seed=9) == [1, 0, 1, 1]
    for clients, unmatched in ((5, 4), (3, 3)):
        with pytest.raises(ConfigError, match=f"client {unmatched}.*clients 0 to {clients - 1}") as error:
            budget.assign_tiers(clients, seed=9)
        assert error.value.key == "path"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("client,density\n0,0.1\n0,0.2\n", "line 3"),
        ("client,density\n0,1.5\n", "line 2"),
        ("client,density\nzero,0.5\n", "line 2"),
        ("id,density\n0,0.5\n", "line 2"),
        ("client,density\n0\n", "line 2"),
        ("client,density\n", "no clients"),
        ("", "no clients"),
    ],
)
def test_an_invalid_file_is_named_with_its_line(tmp_path, text, words):
    (tmp_path / "fleet.csv").write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        FileBudget(tmp_path / "fleet.csv")
    assert error.value.key == "path" and "fleet.csv" in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match="nowhere.csv") as error:
        FileBudget("nowhere.csv")
    assert error.value.key == "path"


@pytest.mark.parametrize(
    ("tiers", "words"),
    [
        ([], "empty"),
        ([Tier(0.2, 0.5), Tier(0.1, 0.5)], r"\[0.2, 0.1\].*increase"),
        ([Tier(0.1, 0.5), Tier(1.5, 0.5)], r"\[0.1, 1.5\].*\(0, 1\]"),
        ([Tier(0.1, 0.5), Tier(0.2, 0.6)], r"shares \[0.5, 0.6\]"),
        ([Tier(0.1, -0.5), Tier(0.2, 1.5)], r"shares \[-0.5, 1.5\]"),
    ],
)
def test_invalid_tiers_are_named(tiers, words):
    with pytest.raises(ConfigError, match=words) as error:
        SparsityBudget(tiers)
    assert error.value.key == "tiers"


def test_the_largest_tier_has_the_density_of_the_server():
    budget = SparsityBudget(TIERS)
    assert SparsityBudget.of(0.1, budget) is budget and SparsityBudget.of(0.2, None).tiers == (Tier(0.2, 1.0),)
    with pytest.raises(ConfigError, match="0.1.*0.2") as error:
        SparsityBudget.of(0.2, budget)
    assert error.value.key == "budget"
    for density in (0, 1.5, None):
        with pytest.raises(ConfigError) as error:
            SparsityBudget.of(density, None)
        assert error.value.key == "density"
