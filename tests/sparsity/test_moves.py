"""Moves keep the number of active weights, drop the smallest weights and grow within the limits of the layers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flash_pl.seeding import generator
from flash_pl.sparsity import (
    BernoulliMove,
    ExactDraw,
    Gradient,
    KeepLayers,
    Layout,
    MeanMagnitude,
    Move,
    TotalMagnitude,
    Uniform,
)
from flash_pl.sparsity.redistribution import drop_counts, redistribute

LAYOUT = Layout(nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 7), nn.Linear(7, 3)))
WEIGHTS = torch.zeros(LAYOUT.size)  # random draws ignore the weights
seeds, densities = st.integers(0, 10_000), st.floats(0.02, 0.98)


def random_mask(density: float, seed: int) -> torch.Tensor:
    return ExactDraw()(LAYOUT, WEIGHTS, Uniform()(LAYOUT, density), generator(seed, "mask"))


def random_weights(seed: int) -> torch.Tensor:
    return torch.randn(LAYOUT.size, generator=generator(seed, "weights"))


@given(densities, st.floats(0.01, 0.5), seeds, st.sampled_from([Move(), Move(redistribution=TotalMagnitude())]))
@settings(max_examples=60)
def test_a_move_keeps_the_total_and_drops_the_smallest(density, rate, seed, move):
    mask, weights = random_mask(density, seed), random_weights(seed)
    weights[: LAYOUT.maskable] *= mask
    before = weights.clone()
    result = move(LAYOUT, weights, mask, rate, generator(seed, "move"))
    assert torch.equal(weights, before)
    assert int(result.mask.sum()) == int(mask.sum())
    assert bool((result.survivors <= mask).all()) and bool((result.survivors <= result.mask).all())
    for part, old, kept in zip(LAYOUT.split(weights), LAYOUT.split(mask), LAYOUT.split(result.survivors), strict=True):
        gone = old & ~kept
        if gone.any() and kept.any():
            assert part[gone].abs().max() <= part[kept].abs().min()


@pytest.mark.parametrize("move", [Move(), Move(redistribution=TotalMagnitude())])
def test_layer_sums_beyond_float32_are_computed_and_a_layer_that_is_not_finite_is_named(move):
    mask, weights = random_mask(0.3, 1), random_weights(1)
    second = LAYOUT.layers[1].start + int(mask[LAYOUT.layers[1].start :].nonzero()[0])
    weights[: LAYOUT.maskable] *= mask
    weights[mask.nonzero()[:3]] = 3e38
    assert int(move(LAYOUT, weights, mask, 0.25, generator(1, "move")).mask.sum()) == int(mask.sum())
    for value in (math.inf, math.nan):
        weights[second] = value
        with pytest.raises(ValueError, match="1.weight has weights that are not finite"):
            move(LAYOUT, weights, mask, 0.25, generator(1, "move"))


@pytest.mark.parametrize("redistribution", [KeepLayers(), MeanMagnitude()])
def test_an_empty_layer_stays_empty_if_the_redistribution_gives_it_nothing(redistribution):
    first = LAYOUT.layers[0].stop
    mask = random_mask(0.3, 1) & (torch.arange(LAYOUT.maskable) < first)
    weights = random_weights(1)[: LAYOUT.maskable] * mask
    result = Move(redistribution=redistribution)(LAYOUT, weights, mask, 0.25, generator(1, "move"))
    assert torch.equal(LAYOUT.counts(result.mask), LAYOUT.counts(mask))


def test_drop_counts_by_hand():
    active, sizes = torch.tensor([90, 10]), torch.tensor([100, 1000])
    # The first layer is nearly dense and its share is above average: it drops at most its sparsity of 0.1.
    assert drop_counts(active, sizes, torch.tensor([0.8, 0.2]), 0.25).tolist() == [math.ceil(0.1 * 90), 3]
    assert drop_counts(active, sizes, torch.tensor([0.2, 0.8]), 0.25).tolist() == [23, 3]


@pytest.mark.parametrize(("rule", "shares"), [(MeanMagnitude(), [0.8, 0.2]), (TotalMagnitude(), [8 / 13, 5 / 13])])
def test_layers_grow_by_their_mean_or_total_magnitude(rule, shares):
    layout = Layout(nn.Sequential(nn.Linear(10, 4, bias=False), nn.Linear(4, 15, bias=False)))
    magnitude = torch.zeros(layout.maskable)
    magnitude[[0, 9, 20, 39]] = torch.tensor([1.0, 2.0, 2.0, 3.0])  # four weights of mean 2
    magnitude[40:50] = 0.5  # ten of mean 0.5
    dropped, grown = rule(layout, magnitude, torch.tensor([4, 10]), 0.5)
    assert dropped.tolist() == [2, 5]
    assert grown.tolist() == pytest.approx([7 * share for share in shares])


PLACES_AND_PRICE = (st.floats(0.01, 1), st.integers(0, 500), st.just(1) | st.integers(1, 1000))


@given(st.lists(st.tuples(*PLACES_AND_PRICE), min_size=1, max_size=6), st.data())
def test_redistribute_spreads_the_total_within_the_limits(layers, data):
    shares = torch.tensor([share for share, _, _ in layers], dtype=torch.float64)
    free = torch.tensor([places for _, places, _ in layers])
    prices = torch.tensor([price for _, _, price in layers], dtype=torch.float64)
    total = data.draw(st.integers(0, int((free * prices).sum())))
    shares /= shares.sum()
    grown = redistribute(shares, free, total, prices)
    assert float((grown * prices).sum()) == pytest.approx(total, abs=1e-6)
    limit = (free * 0.99).floor()
    if total < float((limit * prices).sum()):
        assert (grown <= limit + 1e-9).all()
    if (grown < limit - 1e-9).all():  # no layer was full: the shares are kept
        torch.testing.assert_close(grown / grown.sum().clamp(min=1e-9), shares * bool(total))


@given(densities, st.floats(0.01, 1), seeds)
@settings(max_examples=60)
def test_growth_stays_within_99_percent_of_the_free_places(density, rate, seed):
    mask, weights = random_mask(density, seed), random_weights(seed)
    weights[: LAYOUT.maskable] *= mask
    result = Move()(LAYOUT, weights, mask, rate, generator(seed, "move"))
    free = LAYOUT.sizes - LAYOUT.counts(result.survivors)
    limit = (free * 0.99).floor().long()
    grown = LAYOUT.counts(result.mask & ~result.survivors)
    emptied = LAYOUT.counts(result.survivors) == 0
    if int(grown.sum()) < int(limit.sum()):
        assert bool((grown <= limit.clamp(min=emptied.long())).all())
    assert int(mask.sum()) < len(LAYOUT.layers) or bool((LAYOUT.counts(result.mask) > 0).all())


def test_a_full_layer_regrows_nothing_beyond_its_limit():
    layout = Layout(nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 100)))
    mask = torch.zeros(layout.maskable, dtype=torch.bool)
    mask[:200] = True  # the full first layer drops one weight; 99 % of one free place is 0 weights
    weights = torch.ones(layout.size)
    weights[:100] = 0.5
    result = Move()(layout, weights, mask, 0.005, generator(0, "move"))
    assert layout.counts(result.mask & ~result.survivors).tolist() == [0, 2]


@given(densities, st.floats(0.0, 0.9), seeds)
@settings(max_examples=40)
def test_rigl_and_set_move_as_their_authors_do(density, rate, seed):
    """Against loops over the weights of a layer: int(rate nnz) smallest go, as many grow, the values of both stay."""
    mask, weights, gradient = random_mask(density, seed), random_weights(seed), random_weights(seed + 1)
    weights, gradient = weights[: LAYOUT.maskable] * mask, gradient[: LAYOUT.maskable]
    move = Move(growth=Gradient(), redistribution=KeepLayers(round_down=True), keep_regrown=True)
    result = move(LAYOUT, weights, mask, rate, generator(seed, "move"), gradient)
    new = (weights * result.survivors).double()
    for w, m, g, now, values in zip(*map(LAYOUT.split, (weights, mask, gradient, result.mask, new)), strict=True):
        active = m.nonzero().flatten().tolist()
        count = min(int(rate * len(active)), len(m) - len(active))
        kept = set(sorted(active, key=lambda j: -abs(float(w[j])))[: len(active) - count])
        free = sorted(set(range(len(m))) - kept, key=lambda j: -abs(float(g[j])))
        expected = kept | set(free[:count])
        assert set(now.nonzero().flatten().tolist()) == expected
        assert values.tolist() == [float(w[j]) if j in expected else 0.0 for j in range(len(w))]


def test_bernoulli_move_can_regrow_a_dropped_weight_with_its_old_value():
    mask, weights = random_mask(0.9, 0), random_weights(0)
    result = BernoulliMove()(LAYOUT, weights, mask, 0.5, generator(0, "move"))
    plain = Move()(LAYOUT, weights, mask, 0.5, generator(0, "move"))
    assert int((result.survivors & ~plain.survivors).sum()) > 0
