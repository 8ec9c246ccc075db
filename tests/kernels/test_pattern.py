"""The index lists of a pattern, and the sink of its gradient."""

import copy
import pickle

import pytest
import torch

from flash_pl.kernels import SparsePattern
from flash_pl.kernels.geometry import ConvShape, Machine
from flash_pl.kernels.library import Library

SHAPE = ConvShape(channels=4, size=(8, 8), outputs=5, kernel=(3, 3), stride=(1, 1), padding=(1, 1))


def test_a_pattern_knows_its_mask() -> None:
    mask = torch.rand(5, 4, 3, 3) < 0.3
    pattern, weight = SparsePattern(mask), torch.randn(5, 4, 3, 3)
    assert pattern.count == mask.sum() and pattern.density == pytest.approx(mask.float().mean().item())
    assert torch.equal(pattern.masked(weight), weight * mask)


def test_a_copy_of_a_pattern_has_its_own_lists(native: Library) -> None:
    pattern = SparsePattern(torch.rand(5, 4, 3, 3) < 0.3)
    (before,) = pattern.lists(SHAPE, 16, False, native.machine)
    for duplicate in (copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):
        (lists,) = duplicate.lists(SHAPE, 16, False, native.machine)
        assert lists.address != before.address and torch.equal(lists.number, before.number)


@pytest.mark.parametrize("machine", [Machine(16, 32), Machine(8, 16), Machine(4, 16)])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
def test_lists_have_each_active_weight_once(native: Library, density: float, backward: bool, machine: Machine) -> None:
    shape = ConvShape(150, (6, 6), 70, (3, 3), (2, 1), (1, 1))
    pattern = SparsePattern(torch.rand(70, 150, 3, 3) < density)
    for lists in pattern.lists(shape, 21, backward, machine):
        assert torch.equal(lists.number.sort().values, torch.arange(pattern.count, dtype=torch.int32))


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


@pytest.mark.parametrize("mask", [torch.ones(3, 2), torch.ones(3, dtype=torch.bool)])
def test_an_invalid_mask_is_refused(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="bool tensor"):
        SparsePattern(mask)
