"""The index lists of a pattern, and the sink of its gradient."""

import copy
import pickle

import pytest
import torch

from flash_pl.kernels import Packing, SparsePattern
from flash_pl.kernels.geometry import ConvShape, geometry

SHAPE = ConvShape(channels=4, size=(8, 8), outputs=5, kernel=(3, 3), stride=(1, 1), padding=(1, 1))


def test_a_pattern_knows_its_mask() -> None:
    mask = torch.rand(5, 4, 3, 3) < 0.3
    pattern, weight = SparsePattern(mask), torch.randn(5, 4, 3, 3)
    assert pattern.count == mask.sum() and pattern.density == pytest.approx(mask.float().mean().item())
    assert torch.equal(pattern.masked(weight), weight * mask)


def test_a_copy_of_a_pattern_has_its_own_lists() -> None:
    pattern = SparsePattern(torch.rand(5, 4, 3, 3) < 0.3)
    before = pattern.rows(geometry(SHAPE, Packing()))
    for duplicate in (copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):
        rows = duplicate.rows(geometry(SHAPE, Packing()))
        assert rows.address != before.address and torch.equal(rows.offset, before.offset)


def test_indices_follow_the_memory_format() -> None:
    mask = torch.rand(5, 4, 3, 2) < 0.3
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.randn(5, 4, 3, 2).to(memory_format=layout)
        index = SparsePattern(mask).index(weight.stride())
        assert torch.equal(weight.as_strided((weight.numel(),), (1,))[index.long()], weight[mask])


def test_places_beyond_32_bits_are_refused() -> None:
    pattern = SparsePattern(torch.ones(2, 8, dtype=torch.bool))
    assert int(pattern.index((2**31 - 8, 1)).max()) == 2**31 - 1
    with pytest.raises(ValueError, match="32 bits"):
        pattern.index((2**31 - 7, 1))


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_output_ranges_cover_each_output_once(parts: int) -> None:
    ranges = SparsePattern(torch.rand(6, 50) < 0.2).output_ranges(parts)
    assert [row for first, last in ranges for row in range(first, last)] == list(range(6))


def test_output_ranges_do_not_overflow_with_many_weights_and_parts() -> None:
    pattern, row = SparsePattern(torch.ones(4096, 1, dtype=torch.bool)), 4200  # as if every output had 4200 weights
    pattern.count, pattern._start = pattern.count * row, pattern._start * row
    ranges = pattern.output_ranges(128)
    assert [first for first, _ in ranges] == [0, *(last for _, last in ranges[:-1])] and ranges[-1][1] == 4096
    assert max(last - first for first, last in ranges) == 32


@pytest.mark.parametrize("mask", [torch.ones(3, 2), torch.ones(3, dtype=torch.bool)])
def test_an_invalid_mask_is_refused(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="bool tensor"):
        SparsePattern(mask)
