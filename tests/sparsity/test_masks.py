"""Random masks, moves and mismatch: exact counts in every case."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flash_pl.seeding import generator
from flash_pl.sparsity import (
    BernoulliDraw,
    BernoulliMove,
    ExactDraw,
    KeepLayers,
    LargestDraw,
    Layout,
    MeanMagnitude,
    Move,
    TotalMagnitude,
    Uniform,
    distances,
    mismatch,
    overlaps,
    total_count,
)
from flash_pl.sparsity.first_mask import layer_counts
from flash_pl.sparsity.moves import drop_counts, redistribute

LAYOUT = Layout(nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 7), nn.Linear(7, 3)))
WEIGHTS = torch.zeros(LAYOUT.size)  # random draws do not look at them
seeds, densities = st.integers(0, 10_000), st.floats(0.02, 0.98)


def random_mask(density: float, seed: int) -> torch.Tensor:
    return ExactDraw()(LAYOUT, WEIGHTS, Uniform()(LAYOUT, density), generator(seed, "mask"))


def random_weights(seed: int) -> torch.Tensor:
    return torch.randn(LAYOUT.size, generator=generator(seed, "weights"))


@given(densities, seeds)
def test_exact_draw_has_exactly_d_n_ones(density, seed):
    assert int(random_mask(density, seed).sum()) == total_count(LAYOUT.sizes, density)


def test_bernoulli_draw_meets_the_density_in_expectation():
    densities = Uniform()(LAYOUT, 0.3)
    masks = [BernoulliDraw()(LAYOUT, WEIGHTS, densities, generator(seed, "mask")) for seed in range(50)]
    draws = [mask.float().mean() for mask in masks]
    assert torch.stack(draws).mean() == pytest.approx(0.3, abs=0.01) and torch.stack(draws).std() > 0


@given(densities, seeds)
def test_the_largest_draw_has_the_counts_of_a_random_one_and_no_larger_weight_outside(density, seed):
    weights, random = random_weights(seed), random_mask(density, seed)
    mask = LargestDraw()(LAYOUT, weights, Uniform()(LAYOUT, density), generator(seed, "mask"))
    assert torch.equal(LAYOUT.counts(mask), LAYOUT.counts(random))
    for part, kept in zip(LAYOUT.split(weights.abs()), LAYOUT.split(mask), strict=True):
        assert kept.all() or not kept.any() or part[kept].min() >= part[~kept].max()


@given(densities, st.floats(0.01, 0.5), seeds, st.sampled_from([Move(), Move(redistribution=TotalMagnitude())]))
@settings(max_examples=60)
def test_a_move_keeps_the_total_and_drops_the_smallest(density, rate, seed, move):
    mask, weights = random_mask(density, seed), random_weights(seed)
    weights[: LAYOUT.maskable] *= mask
    before = weights.clone()
    moved = move(LAYOUT, weights, mask, rate, generator(seed, "move"))
    assert torch.equal(weights, before)
    assert int(moved.mask.sum()) == int(mask.sum())
    assert bool((moved.survivors <= mask).all()) and bool((moved.survivors <= moved.mask).all())
    for part, old, kept in zip(LAYOUT.split(weights), LAYOUT.split(mask), LAYOUT.split(moved.survivors), strict=True):
        gone = old & ~kept
        if gone.any() and kept.any():
            assert part[gone].abs().max() <= part[kept].abs().min()


@pytest.mark.parametrize("move", [Move(), Move(redistribution=TotalMagnitude())])
def test_a_move_sums_what_single_precision_cannot_and_names_a_layer_that_is_not_finite(move):
    mask, weights = random_mask(0.3, 1), random_weights(1)
    second = LAYOUT.layers[1].start + int(mask[LAYOUT.layers[1].start :].nonzero()[0])
    weights[: LAYOUT.maskable] *= mask
    weights[mask.nonzero()[:3]] = 3e38
    assert int(move(LAYOUT, weights, mask, 0.25, generator(1, "move")).mask.sum()) == int(mask.sum())
    for value in (math.inf, math.nan):
        weights[second] = value
        with pytest.raises(ValueError, match="1.weight has weights that are not finite"):
            move(LAYOUT, weights, mask, 0.25, generator(1, "move"))


@pytest.mark.parametrize("layers", [KeepLayers(), MeanMagnitude()])
def test_an_empty_layer_takes_no_weight_that_nobody_grants_it(layers):
    first = LAYOUT.layers[0].stop
    mask = random_mask(0.3, 1) & (torch.arange(LAYOUT.maskable) < first)
    moved = Move(layers=layers)(LAYOUT, random_weights(1)[: LAYOUT.maskable] * mask, mask, 0.25, generator(1, "move"))
    assert torch.equal(LAYOUT.counts(moved.mask), LAYOUT.counts(mask))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(1, 99))
def test_a_draw_has_as_many_weights_as_a_model_of_its_density(sizes, percent):
    layout = Layout(nn.Sequential(*(nn.Linear(size, 1) for size in sizes)))
    densities = torch.full((len(sizes),), percent / 100, dtype=torch.float64)
    assert int(layer_counts(layout, densities).sum()) == total_count(layout.sizes, percent / 100)


def test_drop_counts_by_hand():
    active, sizes = torch.tensor([90, 10]), torch.tensor([100, 1000])
    # The first layer is nearly dense and has more than its share: at most its sparsity of 0.1 goes.
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


@given(st.lists(st.tuples(st.floats(0.01, 1), st.integers(0, 500)), min_size=1, max_size=6), st.data())
def test_redistribute_spreads_all_within_the_limit(layers, data):
    shares = torch.tensor([share for share, _ in layers], dtype=torch.float64)
    free = torch.tensor([places for _, places in layers])
    total = data.draw(st.integers(0, int(free.sum())))
    grown = redistribute(shares / shares.sum(), free, total)
    assert float(grown.sum()) == pytest.approx(total, abs=1e-6)
    limit = (free * 0.99).floor()
    if total < float(limit.sum()):
        assert (grown <= limit + 1e-9).all()


@given(densities, st.floats(0.01, 1), seeds)
@settings(max_examples=60)
def test_growth_stays_within_99_percent_of_the_free_places(density, rate, seed):
    mask, weights = random_mask(density, seed), random_weights(seed)
    weights[: LAYOUT.maskable] *= mask
    moved = Move()(LAYOUT, weights, mask, rate, generator(seed, "move"))
    free = LAYOUT.sizes - LAYOUT.counts(moved.survivors)
    limit = (free * 0.99).floor().long()
    grown = LAYOUT.counts(moved.mask & ~moved.survivors)
    emptied = LAYOUT.counts(moved.survivors) == 0
    if int(grown.sum()) < int(limit.sum()):
        assert bool((grown <= limit.clamp(min=emptied.long())).all())
    assert int(mask.sum()) < len(LAYOUT.layers) or bool((LAYOUT.counts(moved.mask) > 0).all())


def test_a_full_layer_takes_nothing_back_beyond_its_limit():
    layout = Layout(nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 100)))
    mask = torch.zeros(layout.maskable, dtype=torch.bool)
    mask[:200] = True  # the first layer is full: it drops one weight, and 99 % of one free place are none
    weights = torch.ones(layout.size)
    weights[:100] = 0.5
    moved = Move()(layout, weights, mask, 0.005, generator(0, "move"))
    assert layout.counts(moved.mask & ~moved.survivors).tolist() == [0, 2]


def test_bernoulli_move_may_regrow_a_dropped_weight_with_its_old_value():
    mask, weights = random_mask(0.9, 0), random_weights(0)
    moved = BernoulliMove()(LAYOUT, weights, mask, 0.5, generator(0, "move"))
    plain = Move()(LAYOUT, weights, mask, 0.5, generator(0, "move"))
    assert int((moved.survivors & ~plain.survivors).sum()) > 0


masks = st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=2, max_size=5)


@given(masks)
def test_mismatch_is_the_jaccard_distance_in_all_and_in_each_layer(masks):
    layout = Layout(nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False)))
    tensors = [torch.tensor(mask) for mask in masks]
    tensors.append(tensors[0])  # one mask that two share

    def jaccard(a: Tensor, b: Tensor) -> float:
        one, two = ({i for i, bit in enumerate(mask.tolist()) if bit} for mask in (a, b))
        return 1 - len(one & two) / len(one | two) if one | two else 0.0  # an empty pair counts as agreeing

    shared = overlaps(layout, tensors)
    whole, of_layers = distances(shared.sum(0)), distances(shared)
    for (i, one), (j, other) in product(enumerate(tensors), repeat=2):
        assert mismatch(one, other) == whole[i, j] == pytest.approx(jaccard(one, other))
        for number, parts in enumerate(zip(layout.split(one), layout.split(other), strict=True)):
            assert of_layers[number, i, j] == pytest.approx(jaccard(*parts))
