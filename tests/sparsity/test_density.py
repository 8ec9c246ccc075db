"""Layer densities: exact budgets under clipping and rounding."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flash_pl.errors import ConfigError
from flash_pl.sparsity import (
    ERK,
    BySize,
    GivenDensities,
    Layout,
    ScaleDown,
    ScaleOnce,
    Uniform,
    allot,
    water_fill,
)

layers = st.lists(st.tuples(st.integers(1, 5000), st.just(0.0) | st.floats(1e-6, 1)), min_size=1, max_size=8)


@given(layers, st.floats(0.001, 1))
def test_water_fill_meets_the_target_exactly_and_stays_in_range(layers, target):
    sizes = torch.tensor([size for size, _ in layers])
    densities = torch.tensor([density for _, density in layers], dtype=torch.float64)
    filled = water_fill(densities, sizes, target)
    assert (filled >= 0).all() and (filled <= 1).all()
    assert float((filled * sizes).sum()) == pytest.approx(target * int(sizes.sum()), rel=1e-9, abs=1e-9)


@given(layers, st.floats(0.001, 1))
def test_water_fill_keeps_proportions_below_the_clip(layers, target):
    sizes = torch.tensor([size for size, _ in layers])
    densities = torch.tensor([0.01 + density for _, density in layers], dtype=torch.float64)
    filled = water_fill(densities, sizes, target)
    ratios = (filled / densities)[filled < 1]
    if len(ratios):
        torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-9, atol=0)
        # A full layer is one that the common ratio would overfill.
        assert (densities[filled == 1] * ratios[0] >= 1 - 1e-9).all()


@given(layers, st.floats(0.001, 1))
def test_allot_sums_exactly_within_capacity(layers, target):
    sizes = torch.tensor([size for size, _ in layers])
    total = round(target * int(sizes.sum()))
    counts = allot(water_fill(torch.tensor([d for _, d in layers]), sizes, target) * sizes, sizes, total)
    assert int(counts.sum()) == total
    assert (counts >= 0).all() and (counts <= sizes).all()
    if total >= len(sizes):
        assert (counts >= 1).all()


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.data())
def test_allot_copes_with_an_ideal_far_from_the_total(sizes, data):
    capacity = torch.tensor(sizes)
    total = data.draw(st.integers(0, sum(sizes)))
    ideal = torch.tensor(data.draw(st.lists(st.floats(0, 300), min_size=len(sizes), max_size=len(sizes))))
    counts = allot(ideal.double(), capacity, total)
    assert int(counts.sum()) == total and (counts <= capacity).all() and (counts >= 0).all()


@pytest.mark.parametrize("distribution", [ERK(), BySize(), BySize(0.5), Uniform()], ids=repr)
def test_a_layer_without_weights_does_not_change_the_other_layers(distribution):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that there is nothing to initialize
        with_it = Layout(nn.Sequential(nn.Linear(8, 8), nn.Linear(0, 5), nn.Linear(8, 4)))
    without = Layout(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)))
    for density in (0.1, 0.3, 0.9):
        densities = distribution(with_it, density)
        assert densities.isfinite().all() and torch.equal(densities[[0, 2]], distribution(without, density))


def test_allot_refuses_more_than_fits():
    with pytest.raises(ValueError, match="do not fit"):
        allot(torch.tensor([1.0]), torch.tensor([1]), 2)


@pytest.fixture
def layout():
    return Layout(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(400, 10)))


DISTRIBUTIONS = [Uniform(), ERK(), BySize(0.5), BySize(), GivenDensities({"0": 1.0, "1": 0.5, "2": 0.01})]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_distributions_meet_the_target(layout, distribution, density):
    densities = distribution(layout, density)
    assert float((densities * layout.sizes).sum()) == pytest.approx(density * layout.maskable)


def test_erk_by_hand():
    layout = Layout(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(20, 10)))
    densities = ERK()(layout, 0.05)
    scale = (4 + 2 + 3 + 3) / 72, (20 + 10) / 200
    assert float(densities[0] / densities[1]) == pytest.approx(scale[0] / scale[1])


def test_by_size_gives_every_layer_as_many_weights_and_a_small_one_all_of_its_own(layout):
    assert (BySize()(layout, 0.05) * layout.sizes).tolist() == pytest.approx([0.05 * layout.maskable / 3] * 3)
    few = BySize()(layout, 0.2)
    assert few[0] == 1  # 216 of the 5,368 weights
    assert float(few[1] * layout.sizes[1]) == pytest.approx(float(few[2] * layout.sizes[2]))
    half = BySize(0.5)(layout, 0.01)
    assert float(half[1] / half[2]) == pytest.approx(float(layout.sizes[2] / layout.sizes[1]) ** 0.5)
    torch.testing.assert_close(BySize(0)(layout, 0.3), Uniform()(layout, 0.3))


@pytest.mark.parametrize("power", [-0.1, 1.1, float("nan")])
def test_by_size_refuses_powers_outside_0_to_1(power):
    with pytest.raises(ConfigError, match=str(power)) as error:
        BySize(power)
    assert error.value.key == "power"


def test_an_error_of_given_densities_names_the_layers(layout):
    with pytest.raises(ConfigError, match="layers 0, 1, 2") as error:
        GivenDensities({"0": 1.0})(layout, 0.5)
    assert error.value.key == "densities"


def test_a_name_of_given_densities_can_be_the_end_of_the_layer_name():
    module = nn.ModuleDict({"model": nn.ModuleDict({"one": nn.Linear(10, 10), "two": nn.Linear(10, 20)})})
    layout = Layout(module)
    densities = GivenDensities({"model.one": 0.2, "two": 0.1})(layout, 0.1)
    assert float(densities[0]) == pytest.approx(2 * float(densities[1]))
    for unclear in ({"one": 1.0}, {"one": 1.0, "model.one": 1.0}, {"one": 1.0, "wo": 1.0}):
        with pytest.raises(ConfigError, match="layers model.one, model.two"):
            GivenDensities(unclear)(layout, 0.1)
    twins = Layout(
        nn.ModuleDict({"a": nn.ModuleDict({"fc": nn.Linear(2, 2)}), "b": nn.ModuleDict({"fc": nn.Linear(2, 2)})})
    )
    with pytest.raises(ConfigError, match="layers a.fc, b.fc"):
        GivenDensities({"fc": 1.0, "other": 1.0})(twins, 0.1)


@pytest.mark.parametrize(
    ("densities", "key", "value"),
    [
        ({}, "densities", "{}"),
        ({"a": 0.0}, "densities", "{a: 0.0}"),
        ({"a": -1.0, "b": 1.0}, "densities.a", "-1.0"),
        ({"a": float("nan")}, "densities.a", "nan"),
        ({"a": float("inf")}, "densities.a", "inf"),
    ],
)
def test_given_densities_are_finite_and_at_least_one_is_above_0(densities, key, value):
    with pytest.raises(ConfigError, match=value) as error:
        GivenDensities(densities)
    assert error.value.key == key


def test_the_authors_rescaling_loses_the_clipped_weights_and_scale_down_never_scales_up():
    sizes, densities = torch.tensor([100, 1000]), torch.tensor([0.9, 0.01], dtype=torch.float64)
    once = ScaleOnce()(densities, sizes, 0.2)
    assert once[0] == 1 and float((once * sizes).sum()) < 0.2 * 1100
    assert torch.equal(ScaleDown()(densities, sizes, 0.9), densities)
    assert float((ScaleDown()(densities, sizes, 0.05) * sizes).sum()) == pytest.approx(0.05 * 1100)
