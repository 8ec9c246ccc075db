"""Mask mismatch compared with Python sets."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from flash_pl.sparsity import Layout, distances, mismatch, overlaps

masks = st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=2, max_size=5)


def jaccard(a: Tensor, b: Tensor) -> float:
    first, second = ({i for i, bit in enumerate(mask.tolist()) if bit} for mask in (a, b))
    return 1 - len(first & second) / len(first | second) if first | second else 0.0  # two empty masks agree


@given(masks)
def test_mismatch_is_the_jaccard_distance_of_models_and_layers(masks):
    layout = Layout(nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False)))
    tensors = [torch.tensor(mask) for mask in masks]
    tensors.append(tensors[0])  # two clients share one mask object
    shared = overlaps(layout, tensors)
    of_models, of_layers = distances(shared.sum(0)), distances(shared)
    for (i, a), (j, b) in product(enumerate(tensors), repeat=2):
        assert mismatch(a, b) == of_models[i, j] == pytest.approx(jaccard(a, b))
        for layer, parts in enumerate(zip(layout.split(a), layout.split(b), strict=True)):
            assert of_layers[layer, i, j] == pytest.approx(jaccard(*parts))
