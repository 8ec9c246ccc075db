"""Equal states have equal fingerprints; any change of a value changes its fingerprint, and no other one."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.fingerprint import COLUMNS, _coefficients, fingerprint

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
SIZES = [1, 2, 3, COLUMNS - 1, COLUMNS, COLUMNS + 1, 3 * COLUMNS + 5]
START = torch.randn(4 * COLUMNS, generator=torch.Generator().manual_seed(1))


def of(value):
    return fingerprint({"part": {"key": value}})["part", "key"]


def values(dtype, size):
    return (START[:size] > 0) if dtype == torch.bool else (1000 * START[:size]).to(dtype)


@given(st.sampled_from([dtype for dtype in TYPES if dtype != torch.bool]), st.sampled_from(SIZES), st.data())
def test_every_flipped_bit_is_seen(dtype, size, data):
    tensor = values(dtype, size)
    before, flipped = of(tensor), tensor.clone().view(torch.uint8)
    place, bit = data.draw(st.integers(0, len(flipped) - 1)), data.draw(st.integers(0, 7))
    flipped[place] ^= 1 << bit
    assert of(flipped.view(dtype)) != before == of(tensor.clone())


@given(st.sampled_from(TYPES), st.sampled_from(SIZES), st.data())
def test_every_exchange_of_two_values_is_seen(dtype, size, data):
    tensor = values(dtype, size)
    one, two = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    swapped = tensor.clone()
    swapped[[one, two]] = tensor[[two, one]]
    assert (of(swapped) == of(tensor)) == bool(tensor[one] == tensor[two])


def test_the_coefficients_see_every_exchange_of_two_words_of_a_row():
    """Words differ by d < 2^32. c d is 0 modulo 2^64 only if 2^33 divides c, the difference of two coefficients."""
    coefficients = _coefficients(torch.device("cpu"))
    assert (coefficients % 2 == 1).all() and len(set((coefficients & (1 << 33) - 1).tolist())) == COLUMNS


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_where_a_tensor_lies_does_not_matter(dtype):
    table = values(dtype, 3 * 41).view(3, 41)
    for view in (table[:, 1:], table.T, table[1], table[0, 0], table[:0]):
        assert of(view) == of(view.clone(memory_format=torch.contiguous_format))
    # But shape, type and bits do.
    assert len({of(torch.zeros(shape, dtype=dtype)) for shape in [(), (1,), (2,), (2, 1), (1, 2), (0,)]}) == 6
    assert of(torch.zeros(4)) != of(torch.zeros(4, dtype=torch.int32)) and of(torch.zeros(1)) != of(-torch.zeros(1))


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
nested = st.recursive(
    plain | st.sets(st.integers() | st.text(max_size=2), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


def shuffled(value, draw):
    """The same value; its mappings and sets were filled in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, draw)) for key, item in value.items()]
        draw.shuffle(items)
        return dict(items)
    if isinstance(value, set):
        items = list(value)
        draw.shuffle(items)
        return set(items)
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@given(nested, nested, st.randoms(use_true_random=False))
def test_plain_values_are_compared_by_value(one, two, draw):
    assert of(one) == of(shuffled(one, draw))
    assert (of(one) == of(two)) == (repr(normal(one)) == repr(normal(two)))


def normal(value):
    """A form in which equal values have equal texts."""
    if isinstance(value, dict):
        return ("dict", sorted((repr(normal(key)), repr(normal(item))) for key, item in value.items()))
    if isinstance(value, set):
        return ("set", sorted(map(repr, value)))
    return ("list", [normal(item) for item in value]) if isinstance(value, list) else value


def test_the_borders_of_values_count():
    different = [["ab", "c"], ["a", "bc"], [["a"], "bc"], ["a", ["bc"]], {"a": "bc"}, "abc", b"abc", {"abc"}, 1, 1.0]
    different += [True, 1j, "1", [], {}, set(), None, [None], 0.0, -0.0, np.float32(1), np.ones(1), torch.ones(1)]
    different += [{"a": {"b": 1}, "c": 2}, {"a": {"b": 1, "c": 2}}, [torch.ones(1), torch.zeros(1)]]
    assert len({of(value) for value in different}) == len(different)
    assert of(("a", 1)) == of(["a", 1])


def test_generators_count_by_their_state():
    makers = [
        lambda: torch.Generator().manual_seed(3),
        lambda: random.Random(3),
        lambda: np.random.default_rng(3),
        lambda: np.random.RandomState(3),
    ]
    draws = [lambda generator: torch.rand(1, generator=generator)] + [lambda generator: generator.random()] * 3
    for make, draw in zip(makers, draws, strict=True):
        generator = make()
        assert of(generator) == of(make())
        draw(generator)
        assert of(generator) != of(make())


def test_only_what_has_changed_has_another_fingerprint():
    shared = torch.ones(5)  # a tensor that two parts hold is one tensor
    first = fingerprint({"a": {"x": shared, "y": [shared, torch.zeros(2)]}, "b": {"x": shared, 0: 1}})
    second = fingerprint({"b": {0: 2, "x": shared}, "a": {"y": [shared, torch.zeros(2)], "x": shared}})
    assert first.keys() == second.keys()
    assert [key for key in first if first[key] != second[key]] == [("b", "0")]
