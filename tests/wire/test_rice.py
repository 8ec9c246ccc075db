"""Rice-coded positions; tests/wire/test_masks.py has more."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.seeding import generator
from flash_pl.wire import rice
from flash_pl.wire.masks import encode_positions


@given(st.integers(1, 5000), st.floats(0, 1), st.integers(0, 99))
def test_min_size_is_a_lower_bound(size, density, seed):
    mask = torch.rand(size, generator=generator(seed, "mask")) < density
    count = int(mask.count_nonzero())
    assert rice.min_size(count, size) <= len(encode_positions(mask, [size]))
