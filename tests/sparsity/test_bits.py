"""Masks at a bit a weight come back as they were."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.sparsity import pack_bits, unpack_bits
from flash_pl.sparsity.mask_store import pack_bits_there


@given(st.lists(st.booleans(), max_size=70))
def test_packing_loses_nothing(flags):
    mask = torch.tensor(flags, dtype=torch.bool)
    bits = pack_bits(mask)
    assert bits.dtype == torch.uint8 and len(bits) == -(-len(flags) // 8)
    assert torch.equal(unpack_bits(bits, len(flags)), mask)
    assert torch.equal(pack_bits_there(mask), bits)  # as on a GPU
