"""Crops and flips of a batch against one sample at a time."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from flash_pl.data import CropFlip
from flash_pl.seeding import generator


def candidates(image: Tensor, padding: int, flip: bool) -> list[Tensor]:
    """Every crop ``[C, H, W]`` that an image may become, cut out one by one."""
    _, height, width = image.shape
    padded = F.pad(image, [padding] * 4)
    places = range(2 * padding + 1)
    crops = [padded[:, top : top + height, left : left + width] for top in places for left in places]
    return crops + [crop.flip(2) for crop in crops] * flip


@settings(max_examples=30, deadline=None)
@given(padding=st.integers(0, 3), flip=st.booleans(), height=st.integers(2, 6), width=st.integers(2, 6))
def test_every_image_becomes_one_of_its_crops(padding: int, flip: bool, height: int, width: int) -> None:
    images = torch.arange(1, 1 + 5 * 2 * height * width).float().view(5, 2, height, width)
    result = CropFlip(padding, flip)(images, generator(0, "augment"))
    assert result.shape == images.shape and result.dtype == images.dtype
    for before, after in zip(images, result, strict=True):
        assert any(torch.equal(after, crop) for crop in candidates(before, padding, flip))


def test_all_crops_are_equally_likely_and_independent() -> None:
    image = torch.arange(1.0, 10).view(1, 3, 3)
    result = CropFlip(1, True)(image.expand(18_000, 1, 3, 3), generator(0, "augment"))
    counts = torch.tensor([int((result == crop).all(dim=(1, 2, 3)).sum()) for crop in candidates(image, 1, True)])
    assert counts.sum() == 18_000
    assert (counts - 1000).abs().max() < 160  # five standard deviations


def test_nothing_to_do_changes_nothing() -> None:
    images = torch.randn(4, 3, 5, 5, generator=generator(0, "images"))
    assert torch.equal(CropFlip(0, False)(images, generator(0, "augment")), images)


def test_the_generator_alone_decides() -> None:
    images = torch.randn(8, 3, 8, 8, generator=generator(0, "images"))
    first = CropFlip()(images, generator(1, "augment"))
    torch.manual_seed(99)
    assert torch.equal(first, CropFlip()(images, generator(1, "augment")))
    assert not torch.equal(first, CropFlip()(images, generator(2, "augment")))
