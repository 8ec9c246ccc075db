"""Drawn masks have the counts that their layer densities ask for, and initial weights fit the mask."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flash_pl.seeding import generator
from flash_pl.sparsity import BernoulliDraw, ExactDraw, LargestDraw, Layout, Uniform
from flash_pl.sparsity.first_mask import layer_counts

LAYOUT = Layout(nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 7), nn.Linear(7, 3)))
WEIGHTS = torch.zeros(LAYOUT.size)  # random draws ignore the weights
seeds, densities = st.integers(0, 10_000), st.floats(0.02, 0.98)


def random_mask(density: float, seed: int) -> torch.Tensor:
    return ExactDraw()(LAYOUT, WEIGHTS, Uniform()(LAYOUT, density), generator(seed, "mask"))


@given(densities, seeds)
def test_exact_draw_has_exactly_d_n_ones(density, seed):
    assert int(random_mask(density, seed).sum()) == round(density * LAYOUT.maskable)


def test_bernoulli_draw_meets_the_density_in_expectation():
    densities = Uniform()(LAYOUT, 0.3)
    masks = [BernoulliDraw()(LAYOUT, WEIGHTS, densities, generator(seed, "mask")) for seed in range(50)]
    means = torch.stack([mask.float().mean() for mask in masks])
    assert means.mean() == pytest.approx(0.3, abs=0.01) and means.std() > 0


@given(densities, seeds)
def test_largest_draw_has_the_counts_of_exact_draw_and_no_larger_weight_outside(density, seed):
    weights = torch.randn(LAYOUT.size, generator=generator(seed, "weights"))
    mask = LargestDraw()(LAYOUT, weights, Uniform()(LAYOUT, density), generator(seed, "mask"))
    assert torch.equal(LAYOUT.counts(mask), LAYOUT.counts(random_mask(density, seed)))
    for part, kept in zip(LAYOUT.split(weights.abs()), LAYOUT.split(mask), strict=True):
        assert kept.all() or not kept.any() or part[kept].min() >= part[~kept].max()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(1, 99))
def test_layer_counts_sum_to_the_budget_of_the_density(sizes, percent):
    layout = Layout(nn.Sequential(*(nn.Linear(size, 1) for size in sizes)))
    densities = torch.full((len(sizes),), percent / 100, dtype=torch.float64)
    assert int(layer_counts(layout, densities).sum()) == round(percent / 100 * layout.maskable)
