"""A validation split of every client's training samples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl import ConfigError, FederatedTrainer
from flash_pl.data import IID, Digits
from flash_pl.data.partition import hold_out
from flash_pl.schedulers import PDST
from flash_pl.seeding import generator


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.floats(0, 0.99), st.integers(0, 9))
def test_every_sample_is_trained_on_or_held_out(sizes, share, seed):
    parts = list(torch.randperm(sum(sizes), generator=generator(seed, "test")).split(sizes))
    kept, held = hold_out(parts, share, generator(seed, "validation"))
    for part, ours, theirs in zip(parts, kept, held, strict=True):
        assert sorted([*ours.tolist(), *theirs.tolist()]) == sorted(part.tolist())
        assert len(theirs) == min(round(share * len(part)), len(part) - 1)
        assert [place for place in part.tolist() if place in set(ours.tolist())] == ours.tolist()


def digits(validation, **keywords):
    data = Digits(clients=10, partition=IID(), validation=validation, **keywords)
    data.setup("fit")
    return data


def test_the_server_and_the_clients_are_evaluated_on_what_is_held_out():
    whole, data = digits(0.0), digits(0.2)
    assert sum(whole.client_sizes) == len(whole.train)
    held = data.val_dataloader()
    assert data.client_sizes == [n - round(0.2 * n) for n in whole.client_sizes]
    assert held.samples == sum(round(0.2 * n) for n in whole.client_sizes)
    assert sum(data.client_val_batches(client).samples for client in range(10)) == held.samples
    assert len(data.train_dataloader()) == -(-sum(data.client_sizes) // data.batch_size)
    assert torch.equal(data.test_dataloader().images, whole.val_dataloader().images)
    trained = torch.cat([data.client_batches(client).images for client in range(10)])
    known = {image.numpy().tobytes() for image in trained}
    fresh = [image.numpy().tobytes() not in known for image in held.images]
    assert sum(fresh) > 0.99 * len(fresh)  # a few of the data set's images occur twice


def test_the_split_is_a_function_of_the_seed():
    first, again, other = (digits(0.2, seed=seed).val_dataloader().images for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_run_reports_the_accuracy_on_what_is_held_out(unaware, tiny_data):
    tiny_data.validation = 0.5
    loop = FederatedTrainer(PDST(), density=0.5, rounds=1, cohort=2, accelerator="cpu").fit(unaware(), tiny_data)
    count = tiny_data.val_dataloader().samples
    hits = loop.metrics["val_acc"] * count
    assert count != len(tiny_data.test) and hits == pytest.approx(round(hits), abs=1e-3)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_only_shares_are_taken(share):
    with pytest.raises(ConfigError, match="validation: .* a share in"):
        Digits(validation=share)


def test_a_share_that_holds_nothing_out_is_refused():
    with pytest.raises(ConfigError, match="holds out at least one sample"):
        digits(1e-4)
