"""Test samples of a client follow the classes that it trains on."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.data import Samples, TensorData
from flash_pl.data.federated import deal_alike
from flash_pl.seeding import generator

labels = st.lists(st.integers(0, 3), max_size=30)  # a client may have no samples


@given(
    train=st.lists(labels, min_size=1, max_size=6).filter(any),
    test=st.lists(st.integers(0, 4), min_size=1, max_size=60),
)
def test_every_test_sample_of_a_trained_class_has_one_owner_in_proportion(train, test):
    owned, given_ = [torch.tensor(part, dtype=torch.int64) for part in train], torch.tensor(test)
    parts = deal_alike(owned, given_, generator(0, "test"))
    dealt = torch.cat(parts)
    trained = torch.isin(given_, torch.cat(owned))
    assert sorted(dealt.tolist()) == trained.nonzero().squeeze(1).tolist()
    for label in range(5):
        held = torch.tensor([int((part == label).sum()) for part in owned]).double()
        got = torch.tensor([int((given_[part] == label).sum()) for part in parts])
        if held.sum():
            assert bool(((got - held / held.sum() * (given_ == label).sum()).abs() <= 1).all())


def test_owners_keep_their_own_test_samples():
    images = torch.zeros(6, 1, 2, 2)
    train = Samples(images, torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([2, 2, 0, 0, 1, 1]))
    test = Samples(images[:4], torch.tensor([0, 1, 1, 0]), torch.tensor([1, 2, 1, 7]))
    data = TensorData(train, test, clients=None)
    data.setup()
    found = {}
    for client in range(3):
        owner = int(train.owners[data._parts[client][0]])
        found[owner] = data.client_val_batches(client).labels.tolist()
    assert found == {0: [], 1: [0, 1], 2: [1]}
