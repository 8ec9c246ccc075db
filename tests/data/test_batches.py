"""Batches from memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flash_pl.data import Batches, Shuffled
from flash_pl.seeding import generator


def numbered(samples: int, batch_size: int, augment: object = None) -> Batches:
    """Sample i has pixels and label i."""
    images = torch.arange(samples).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Batches(images, torch.arange(samples), batch_size, augment)  # type: ignore[arg-type]


@given(samples=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_in_order_every_sample_once(samples: int, batch_size: int) -> None:
    batches = numbered(samples, batch_size)
    found = list(batches)
    assert batches.samples == samples and len(found) == len(batches)
    assert torch.cat([y for _, y in found]).tolist() == list(range(samples))
    assert all(len(y) == batch_size for _, y in found[:-1])


@given(samples=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 9))
def test_shuffled_keeps_pairs_and_every_sample(samples: int, batch_size: int, seed: int) -> None:
    batches = numbered(samples, batch_size)
    found = list(batches.shuffled(generator(seed, "batches")))
    assert len(found) == len(batches)
    assert all(torch.equal(x[:, 0, 0, 0].long(), y) for x, y in found)
    assert torch.cat([y for _, y in found]).sort().values.tolist() == list(range(samples))


def test_one_generator_gives_another_order_each_epoch_and_the_same_again() -> None:
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
