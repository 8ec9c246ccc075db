"""Budgets in multiply-adds: every mask meets them, and with equal prices they give the masks of budgets of weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flash_pl.errors import ConfigError
from flash_pl.seeding import generator
from flash_pl.server import ClientUpdate, ConsensusVote, MagnitudeVote, MajorityVote, ServerState
from flash_pl.sparsity import (
    ERK,
    BySize,
    ExactDraw,
    FirstMask,
    GivenDensities,
    KeepLayers,
    LargestDraw,
    Layout,
    MeanMagnitude,
    Move,
    SparsityBudget,
    TotalMagnitude,
    Uniform,
    channel_mask,
    largest_channel_ratio,
    nested_masks,
    top_k,
    top_k_by_cost,
    water_fill,
)

SHAPES = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(30, 20), nn.Linear(20, 5)]
GIVEN = GivenDensities({"0": 1.0, "1": 0.5, "2": 0.01, "3": 0.2})
DISTRIBUTIONS = [Uniform(), ERK(), BySize(), BySize(0.5), GIVEN]
prices = st.lists(st.integers(1, 1024), min_size=4, max_size=4)
densities = st.floats(0.01, 1)
seeds = st.integers(0, 1000)


def priced(prices=None):
    """A layout whose weights cost these multiply-adds in each layer; None counts weights."""
    layout = Layout(nn.Sequential(*SHAPES))
    if prices is not None:
        layout.costs = torch.tensor(prices, dtype=torch.float64) * layout.sizes
    return layout


def weights_of(layout, seed):
    return torch.randn(layout.size, generator=generator(seed, "weights"))


def check_cost(layout, mask, cost):
    assert abs(layout.cost(mask) - cost) <= float(layout.prices.sum())


@given(prices, densities, st.sampled_from(DISTRIBUTIONS), st.sampled_from([ExactDraw(), LargestDraw()]), seeds)
@settings(max_examples=60)
def test_a_first_mask_meets_the_budget_within_a_weight_of_each_layer(prices, density, distribution, draw, seed):
    layout = priced(prices)
    shares = distribution(layout, density)
    assert bool((shares >= 0).all()) and bool((shares <= 1).all())
    assert float((shares * layout.costs).sum()) == pytest.approx(density * float(layout.costs.sum()))
    mask = FirstMask(distribution, draw=draw)(layout, weights_of(layout, seed), density, None, generator(seed, "mask"))
    check_cost(layout, mask, density * float(layout.costs.sum()))
    if density == 1:
        assert bool(mask.all())


@given(prices, st.lists(st.floats(0.1, 1), min_size=4, max_size=4), densities, seeds)
@settings(max_examples=60)
def test_the_measured_densities_of_stage_1_keep_their_ratios(prices, measured, density, seed):
    layout, measured = priced(prices), torch.tensor(measured, dtype=torch.float64)
    mask = FirstMask()(layout, weights_of(layout, seed), density, measured, generator(seed, "mask"))
    check_cost(layout, mask, density * float(layout.costs.sum()))
    ideal = water_fill(measured, layout.costs, density) * layout.sizes
    if bool((ideal >= 1).all()):  # a layer keeps at least one weight
        assert bool(((layout.counts(mask) - ideal).abs() <= 1).all())


@given(prices, st.floats(0.01, 0.5), st.floats(0.001, 0.49), st.sampled_from(DISTRIBUTIONS))
def test_densities_grow_with_the_target(prices, density, more, distribution):
    layout = priced(prices)
    assert bool((distribution(layout, density) <= distribution(layout, density + more) + 1e-12).all())


# Of layers with equally many weights, which BySize() gives, the last bits decide which one is rounded up.
@given(st.integers(1, 1024), st.integers(2, 99), st.sampled_from([d for d in DISTRIBUTIONS if d != BySize()]), seeds)
@settings(max_examples=60)
def test_equal_prices_give_the_masks_of_a_budget_of_weights(price, percent, distribution, seed):
    density, masks, voted = percent / 100 + 1e-4, [], []
    for layout in (priced(), priced([price] * 4)):
        weights, draws = weights_of(layout, seed), generator(seed, "mask")
        first = FirstMask(distribution)(layout, weights, density, None, draws)
        top = top_k_by_cost(layout, weights[: layout.maskable].abs(), layout.budget(density))
        moved = Move()(layout, weights * 1, first, 0.3, generator(seed, "move")).mask
        narrow = channel_mask(layout, largest_channel_ratio(layout, max(0.2, density)))
        nested = nested_masks(layout, first, weights, [0.37, 1.0])[0]
        masks.append(torch.stack([first, top, moved, narrow, nested]))
        voted.append(layout.counts(vote(layout, weights, [first, top], density)))
    assert torch.equal(*masks)
    assert int(voted[0].sum()) == int(voted[1].sum())
    assert int((voted[0] - voted[1]).abs().max()) <= 1  # the last bits decide between equal remainders


def vote(layout, weights, masks, density, voter=None):
    server = ServerState.start(layout, weights, density)
    updates = [
        ClientUpdate(i, 10, mask, layout.densities(mask), layout.densities(mask)) for i, mask in enumerate(masks)
    ]
    return (voter or MagnitudeVote())(server, updates, density)


@given(prices, densities, st.sampled_from([MagnitudeVote(), MajorityVote(), ConsensusVote()]), seeds)
@settings(max_examples=60)
def test_votes_meet_the_budget(prices, density, voter, seed):
    layout = priced(prices)
    weights = weights_of(layout, seed)
    clients = [torch.rand(layout.maskable, generator=generator(seed, "client", i)) < 0.3 for i in range(3)]
    check_cost(layout, vote(layout, weights, clients, density, voter), density * float(layout.costs.sum()))


@given(prices, st.lists(st.floats(0.05, 1), min_size=1, max_size=3, unique=True), seeds)
@settings(max_examples=60)
def test_masks_of_tiers_are_nested_and_cost_their_share(prices, ratios, seed):
    layout, ratios = priced(prices), [*sorted(ratios), 1.0]
    weights = weights_of(layout, seed)
    mask = FirstMask(ERK())(layout, weights, 0.4, None, generator(seed, "mask"))
    masks = nested_masks(layout, mask, weights, ratios)
    for ratio, smaller, larger in zip(ratios, masks, [*masks[1:], mask], strict=True):
        assert bool((smaller <= larger).all())
        check_cost(layout, smaller, ratio * layout.cost(mask))


@given(prices, st.integers(0, 10**9), seeds)
@settings(max_examples=60)
def test_the_best_of_all_layers_are_the_k_best_with_the_nearest_cost(prices, cost, seed):
    layout = priced(prices)
    cost %= int(layout.budget(1.0)) + 1
    scores = torch.randint(0, 50, (layout.maskable,), generator=generator(seed, "scores")).float()  # many are equal
    mask = top_k_by_cost(layout, scores, cost)
    k = int(mask.sum())
    assert torch.equal(mask, top_k(scores, k))
    spent = layout.prices.repeat_interleave(layout.sizes)[scores.argsort(descending=True, stable=True)].cumsum(0)
    errors = (torch.cat([torch.zeros(1, dtype=torch.float64), spent]) - cost).abs()
    assert float(errors[k]) == float(errors.min())


@given(prices, st.floats(0.05, 0.9), st.floats(0.05, 0.9), seeds)
@settings(max_examples=60)
def test_moves_between_layers_keep_the_cost_within_a_weight_of_each_layer(prices, density, rate, seed):
    layout = priced(prices)
    weights = weights_of(layout, seed)
    mask = FirstMask(ERK())(layout, weights, density, None, generator(seed, "mask"))
    weights[: layout.maskable] *= mask
    for redistribution in (MeanMagnitude(), TotalMagnitude(), KeepLayers()):
        moved = Move(redistribution=redistribution)(layout, weights, mask, rate, generator(seed, "move")).mask
        check_cost(layout, moved, layout.cost(mask))


@given(prices, st.floats(0.3, 1))
def test_a_narrow_network_meets_the_budget_from_below(prices, density):
    layout = priced(prices)
    mask = channel_mask(layout, largest_channel_ratio(layout, density))
    assert layout.cost(mask) <= density * float(layout.costs.sum()) or largest_channel_ratio(layout, density) < 0.1


def test_a_budget_of_less_than_one_weight_is_refused():
    layout = priced([1000, 1, 1, 1])
    with pytest.raises(ConfigError, match="1,000 of one weight of 0.weight") as error:
        SparsityBudget.of(0.001, None).check_layout(layout)
    assert error.value.key == "density"
