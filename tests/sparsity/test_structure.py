"""Structured masks have their pattern, their counts, and the highest scores that the pattern allows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flash_pl.errors import ConfigError
from flash_pl.models import LeafCNN
from flash_pl.seeding import generator
from flash_pl.sparsity import NM, Channels, ExactDraw, Layout, StructuredDraw, Uniform, Unstructured

LAYOUT = Layout(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 2), nn.Linear(20, 12)))
CHANNELS_LAST = Layout(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 2)).to(memory_format=torch.channels_last))


@given(st.floats(0.02, 1.0), st.integers(2, 9), st.integers(0, 99), st.sampled_from([LAYOUT, CHANNELS_LAST]))
def test_groups_of_m_share_their_weights_evenly(density, group, seed, layout):
    densities = Uniform()(layout, density)
    mask = StructuredDraw(NM(group))(layout, torch.zeros(layout.size), densities, generator(seed, "mask"))
    exact = ExactDraw()(layout, torch.zeros(layout.size), densities, generator(seed, "mask"))
    assert torch.equal(layout.counts(mask), layout.counts(exact))
    assert int(mask.sum()) == round(density * layout.maskable)
    for slot in layout.layers:
        rows = slot.view(mask).flatten(1)
        full_groups = rows[:, : rows.shape[1] // group * group].reshape(len(rows), -1, group).sum(-1)
        if full_groups.numel():
            # The last group of a row can be shorter; the weights that do not fit there go to other groups.
            spare = rows.shape[1] % group != 0
            assert full_groups.max() - full_groups.min() <= 1 + spare


def test_two_of_four_keeps_the_two_largest_of_every_group():
    scores = torch.rand(LAYOUT.maskable, generator=generator(0, "scores"))
    mask = NM(4)(LAYOUT, scores, LAYOUT.sizes // 2)
    slot = LAYOUT.layers[2]
    kept, values = slot.view(mask).reshape(-1, 4), slot.view(scores).reshape(-1, 4)
    assert (kept.sum(1) == 2).all()
    assert torch.equal(kept, torch.zeros_like(kept).scatter(1, values.topk(2).indices, True))


@given(st.floats(0.05, 1.0), st.integers(0, 99))
def test_channels_are_whole_and_the_best(density, seed):
    scores = torch.rand(LAYOUT.maskable, generator=generator(seed, "scores"))
    mask = Channels()(LAYOUT, scores, (density * LAYOUT.sizes).long())
    for slot in LAYOUT.layers:
        last = slot == LAYOUT.layers[-1]  # its outputs are the classes, so its inputs are chosen
        weight, of_layer = (slot.view(flat).T if last else slot.view(flat) for flat in (mask, scores))
        rows, means = weight.flatten(1), of_layer.flatten(1).mean(1)
        chosen, wished = rows.all(1), int(density * rows.numel()) * len(rows) / rows.numel()
        assert torch.equal(chosen, rows.any(1)) and chosen.sum() == max(1, round(wished))
        if not chosen.all():
            assert means[chosen].min() >= means[~chosen].max()


@pytest.mark.parametrize("density", [0.05, 0.1, 0.5])
def test_channels_keep_every_class(density):
    layout = Layout(LeafCNN(num_classes=10, image_size=8, channels=(8, 16), hidden=32))
    scores = torch.rand(layout.maskable, generator=generator(0, "scores"))
    mask = Channels()(layout, scores, (density * layout.sizes).long())
    assert layout.layers[-1].view(mask).any(dim=1).tolist() == [True] * 10


def test_unstructured_is_the_top_k_of_every_layer():
    scores = torch.rand(LAYOUT.maskable, generator=generator(0, "scores"))
    counts = LAYOUT.sizes // 10
    for part, mask, count in zip(
        LAYOUT.split(scores), LAYOUT.split(Unstructured()(LAYOUT, scores, counts)), counts.tolist(), strict=True
    ):
        assert mask.sum() == count and part[mask].min() > part[~mask].max()


def test_a_group_of_one_is_refused():
    with pytest.raises(ConfigError, match="1") as error:
        NM(1)
    assert error.value.key == "group"
