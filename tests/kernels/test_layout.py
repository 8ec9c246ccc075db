"""The kernels' layout, and how passes are divided."""

import pytest
import torch

from flash_pl.kernels.geometry import ConvShape, Machine, make_pass, split_batch
from flash_pl.kernels.layout import batch_first, batch_innermost, empty, is_batch_innermost
from flash_pl.kernels.library import Library

MACHINES = [Machine(16, 32), Machine(8, 16), Machine(4, 16), Machine(4, 32)]


@pytest.mark.parametrize(
    "shape", [(32, 64, 8, 8), (5, 3, 7, 9), (16, 1, 1, 1), (1, 4, 3, 3), (33, 40, 4, 8), (0, 3, 4, 4)]
)
def test_the_layout_is_a_change_of_strides_and_back(native: Library, shape: tuple[int, ...]) -> None:
    for isa in native.isas():
        native.use(isa)
        for x in (torch.randn(shape), torch.randn(shape).to(memory_format=torch.channels_last)):
            y = batch_innermost(x)
            assert torch.equal(y, x) and is_batch_innermost(y) and batch_innermost(y) is y
            back = batch_first(y)
            assert back.is_contiguous() and torch.equal(back, x)


def test_element_wise_operations_and_flatten_keep_the_layout() -> None:
    x = empty([20, 3, 4, 4]).normal_()
    assert is_batch_innermost(x.relu() + x * 2) and is_batch_innermost(torch.empty_like(x))
    assert x.flatten(1).data_ptr() == x.data_ptr() and x.flatten(1).stride() == (1, 20)


@pytest.mark.parametrize("vector", [4, 8, 16])
@pytest.mark.parametrize("batch", range(66))
def test_the_parts_of_a_batch_are_all_of_it(batch: int, vector: int) -> None:
    parts = split_batch(batch, vector)
    assert sum(images for images, _ in parts) == batch
    assert all(lanes <= vector and (lanes < 2 * images or lanes == 1) for images, lanes in parts)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8, 13, 18, 28, 32])
def test_tiles_fit_the_registers_and_cover_the_images(machine: Machine, side: int) -> None:
    shape = ConvShape(64, (side, side), 32, (3, 3), (1, 1), (1, 1))
    for backward in (False, True):
        for images, lanes in split_batch(50, machine.vector):
            each = make_pass(shape, backward, images, lanes, 0.1, machine)
            vectors = each.tile_h * -(-each.tile_w * each.lanes // machine.vector)
            assert vectors <= machine.registers // 2 and each.blocks * each.block >= 64 // (1 + backward)
            tiles = -(-side // each.tile_h) * -(-side // each.tile_w) * -(-images // each.lanes)
            assert each.tiles == tiles and each.tile_w <= side
