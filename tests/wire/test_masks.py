"""Masks come back from each encoding, the shortest encoding is chosen, and a malicious section is refused."""

import tracemalloc
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.errors import PayloadError
from flash_pl.seeding import generator
from flash_pl.wire import MaskKind, Reader, decode_mask, encode_mask
from flash_pl.wire.mask_size import measure_mask
from flash_pl.wire.masks import cached_draw, encode_positions
from flash_pl.wire.reader import encode_varint


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]),
    st.sampled_from([None, 0.0, 0.01, 1.0]),
    st.integers(0, 99),
    st.booleans(),
)
def test_masks_of_layers_of_any_size_come_back(sizes, density, moved, seed, compress):
    draws = generator(seed, "mask")
    mask = torch.rand(sum(sizes), generator=draws) < density
    reference = None if moved is None else mask ^ (torch.rand(len(mask), generator=draws) < moved)
    kind, section = encode_mask(mask, sizes, reference, None, compress)
    reader = Reader(section)
    assert torch.equal(decode_mask(kind, reader, sizes, reference), mask)
    reader.end()
    if kind != MaskKind.REFERENCE and not compress and not mask.all():  # no shorter encoding was skipped
        lengths = {MaskKind.POSITIONS: len(encode_positions(mask, sizes)), MaskKind.BITMAP: -(-len(mask) // 8)}
        if reference is not None:
            lengths[MaskKind.DELTA] = 4 + len(encode_positions(mask ^ reference, sizes))
        assert (kind, len(section)) == min(lengths.items(), key=lambda entry: entry[1])  # the first of equal lengths


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]),
    st.sampled_from([None, 0.0, 0.001, 0.1, 1.0]),
    st.sampled_from([None, 3]),
    st.integers(0, 99),
)
def test_a_length_that_is_counted_is_that_of_the_bytes(sizes, density, moved, mask_seed, seed):
    draws = generator(seed, "mask")
    mask = torch.rand(sum(sizes), generator=draws) < density
    if mask_seed is not None and seed % 2:
        counts = [int(part.sum()) for part in mask.split(sizes)]
        mask = cached_draw(mask_seed, tuple(sizes), tuple(counts))
    reference = None if moved is None else mask ^ (torch.rand(len(mask), generator=draws) < moved)
    kind, section = encode_mask(mask, sizes, reference, mask_seed)
    assert measure_mask(mask, sizes, reference, mask_seed) == (kind, len(section))


def test_of_equal_lengths_the_first_encoding_is_chosen():
    mask = torch.arange(28) == 0
    assert len(encode_positions(mask, [28])) == 4 == -(-28 // 8)
    assert encode_mask(mask, [28])[0] is MaskKind.POSITIONS


def test_a_decoded_seed_does_not_fill_the_cache():
    section = (3).to_bytes(8, "little") + encode_varint(2)
    before = cached_draw.cache_info()
    decode_mask(MaskKind.SEED, Reader(section), [9])
    assert cached_draw.cache_info() == before


@pytest.mark.parametrize("sizes", [[0], [8], [20, 4]])
def test_a_compressed_bitmap_that_is_too_long_is_refused_without_its_memory(sizes):
    """Two kilobytes would become two megabytes of zeros; a model without maskable weights is a case too."""
    section = Reader(zlib.compress(bytes(2**21), 9))
    tracemalloc.start()
    with pytest.raises(PayloadError, match="does not have"):
        decode_mask(MaskKind.DEFLATED, section, sizes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
