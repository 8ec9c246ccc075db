"""Samples, batches from memory, and crops and flips compared with one image at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from flash_pl.data import CropFlip, Samples, Shuffled, TensorBatches
from flash_pl.errors import ConfigError
from flash_pl.seeding import generator


@pytest.mark.parametrize(
    "split",
    [
        (torch.zeros(3, 1, 4, 4), torch.tensor(3)),
        (torch.zeros(3, 1), torch.zeros(3), torch.zeros(3, 1, dtype=torch.int64)),
        (torch.zeros(3, 1, 4, 4), torch.zeros(2, dtype=torch.int64)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(split: tuple[Tensor, ...]) -> None:
    with pytest.raises(ConfigError, match=r"\(3") as error:
        Samples(*split)
    assert error.value.key == "samples"


@pytest.mark.parametrize(
    "key, value, tensors",
    [
        ("labels", "int32", (torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int32), None)),
        ("inputs", "null", (None, torch.zeros(1, dtype=torch.int64), None)),
        ("labels", "null", (torch.zeros(1, 1, 2, 2), None, None)),
        ("owners", r"\[1\]", (torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64), [1])),
    ],
)
def test_wrong_dtypes_and_classes_are_refused(key: str, value: str, tensors: tuple) -> None:
    with pytest.raises(ConfigError, match=value) as error:
        Samples(*tensors)
    assert error.value.key == key


def numbered(samples: int, batch_size: int, augment: object = None) -> TensorBatches:
    """Sample i has pixels and label i."""
    images = torch.arange(samples).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return TensorBatches(images, torch.arange(samples), batch_size, augment)  # type: ignore[arg-type]


@given(samples=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_in_order_every_sample_once(samples: int, batch_size: int) -> None:
    batches = numbered(samples, batch_size)
    pairs = list(batches)
    assert batches.samples == samples and len(pairs) == len(batches)
    assert torch.cat([y for _, y in pairs]).tolist() == list(range(samples))
    assert all(len(y) == batch_size for _, y in pairs[:-1])


@given(samples=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 9))
def test_shuffled_keeps_pairs_and_every_sample(samples: int, batch_size: int, seed: int) -> None:
    batches = numbered(samples, batch_size)
    pairs = list(batches.shuffled(generator(seed, "batches")))
    assert len(pairs) == len(batches)
    assert all(torch.equal(x[:, 0, 0, 0].long(), y) for x, y in pairs)
    assert torch.cat([y for _, y in pairs]).sort().values.tolist() == list(range(samples))


def test_each_epoch_has_another_order_which_the_generator_decides() -> None:
    loader = Shuffled(numbered(50, 8), generator(0, "batches"))
    first, second = (torch.cat([y for _, y in loader]) for _ in range(2))
    again = torch.cat([y for _, y in Shuffled(numbered(50, 8), generator(0, "batches"))])
    assert len(loader) == 7
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_only_shuffled_batches_are_augmented() -> None:
    def shift(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + 100 * torch.randint(1, 9, (1,), generator=generator)

    batches = numbered(20, 4, shift)
    assert all(torch.equal(x[:, 0, 0, 0].long(), y) for x, y in batches)
    steps = [(x[:, 0, 0, 0].long() - y).unique().tolist() for x, y in batches.shuffled(generator(0, "batches"))]
    assert all(len(step) == 1 and step[0] >= 100 for step in steps)
    assert len({step[0] for step in steps}) > 1


@pytest.mark.parametrize("batch_size", [1, 7, 20, 64])
def test_length_rounds_up(batch_size: int) -> None:
    assert len(numbered(20, batch_size)) == -(-20 // batch_size)


def candidates(image: Tensor, padding: int, flip: bool) -> list[Tensor]:
    """All crops ``[C, H, W]`` that an image can become, cut out one by one."""
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


def test_without_padding_and_flip_images_stay_the_same() -> None:
    images = torch.randn(4, 3, 5, 5, generator=generator(0, "images"))
    assert torch.equal(CropFlip(0, False)(images, generator(0, "augment")), images)


def test_the_generator_alone_decides() -> None:
    images = torch.randn(8, 3, 8, 8, generator=generator(0, "images"))
    first = CropFlip()(images, generator(1, "augment"))
    torch.manual_seed(99)
    assert torch.equal(first, CropFlip()(images, generator(1, "augment")))
    assert not torch.equal(first, CropFlip()(images, generator(2, "augment")))


@pytest.mark.parametrize(("samples", "batches"), [(9, 2), (8, 2), (3, 1), (1, 1)])
def test_a_smaller_last_batch_can_be_left_out_unless_it_is_the_only_one(samples, batches):
    data = TensorBatches(torch.zeros(samples, 1, 2, 2), torch.arange(samples), batch_size=4, drop_last=True)
    for epoch in (data.shuffled(torch.Generator().manual_seed(0)), iter(data)):
        labels = torch.cat(sizes := [labels for _, labels in epoch])
        assert len(sizes) == batches == len(data)
        assert len(labels.unique()) == len(labels) == data.epoch_samples == min(samples, 4 * batches)
    assert data.samples == samples
