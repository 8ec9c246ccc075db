"""Partitions, the validation split and the test split divide all samples without overlap."""

import time
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flash_pl.data import IID, Dirichlet, LabelShards, Partition, UnbalancedDirichlet
from flash_pl.data.partition import hold_out, split_test_samples
from flash_pl.errors import ConfigError
from flash_pl.seeding import generator

ALL = [IID(), Dirichlet(), Dirichlet(0.05), UnbalancedDirichlet(), LabelShards()]
BALANCED = [IID(), Dirichlet(), Dirichlet(0.05), Dirichlet(1000.0)]


def mixes(parts: list[Tensor], labels: Tensor) -> Tensor:
    """Class frequencies ``[clients, classes]``."""
    counts = torch.stack([labels[part].bincount(minlength=int(labels.max()) + 1) for part in parts])
    return counts / counts.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("partition", ALL, ids=repr)
@settings(max_examples=25, deadline=None)
@given(clients=st.integers(1, 12), classes=st.integers(1, 6), extra=st.integers(0, 150), seed=st.integers(0, 99))
def test_every_sample_belongs_to_one_client(
    partition: Partition, clients: int, classes: int, extra: int, seed: int
) -> None:
    labels = torch.randint(classes, (40 * clients + extra,), generator=generator(seed, "labels"))
    try:
        parts = partition(labels, clients, generator(seed, "partition"))
    except ConfigError as error:  # by chance a client may get no samples
        assert isinstance(partition, UnbalancedDirichlet) and error.key == "min_samples"
        return
    assert len(parts) == clients
    assert all(part.dtype == torch.int64 and len(part) for part in parts)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(labels)))


@pytest.mark.parametrize("partition", BALANCED, ids=repr)
@settings(max_examples=25, deadline=None)
@given(clients=st.integers(1, 12), samples=st.integers(12, 200))
def test_balanced_sizes_give_the_remainder_to_the_first(partition: Partition, clients: int, samples: int) -> None:
    parts = partition(torch.arange(samples) % 5, clients, generator(0, "partition"))
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1


@pytest.mark.parametrize("partition", ALL, ids=repr)
def test_the_generator_alone_decides(partition: Partition) -> None:
    labels = torch.arange(2000) % 10
    first = partition(labels, 8, generator(1, "partition"))
    torch.manual_seed(99)
    again = partition(labels, 8, generator(1, "partition"))
    other = partition(labels, 8, generator(2, "partition"))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_alpha_sets_the_skew() -> None:
    labels = torch.arange(10_000) % 10
    for kind in (Dirichlet, UnbalancedDirichlet):
        iid = mixes(kind(1000.0)(labels, 20, generator(0, "partition")), labels)
        skewed = mixes(kind(0.1)(labels, 20, generator(0, "partition")), labels)
        # Averaged over clients, since the last client of a balanced draw gets the samples that are left.
        assert iid.max(dim=1).values.mean() < 0.2
        assert skewed.max(dim=1).values.mean() > 0.5


ALPHAS = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 1e3]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_class_mixes_are_concentrated_as_dirichlet_draws(alpha: float) -> None:
    # The first client takes few samples of every class, so no class runs out.
    labels, k, clients, size = torch.arange(1000) % 5, 5, 12, 84
    squares = []
    for seed in range(150):
        mix = mixes(Dirichlet(alpha)(labels, clients, generator(seed, "partition"))[:1], labels)[0].double()
        squares.append((mix.square().sum() * size - 1) / (size - 1))  # unbiased for sum p^2 of a multinomial draw
    # The standard deviation of the mean of 150 values in [0, 1] is at most 0.041.
    assert torch.stack(squares).mean().item() == pytest.approx((alpha + 1) / (k * alpha + 1), abs=0.1)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_classes_are_divided_as_dirichlet_draws(alpha: float) -> None:
    # Of 40 classes each of 3 clients gets one, so no partition is drawn again.
    labels, k = torch.arange(40 * 60) % 40, 3
    squares = []
    for seed in range(10):
        parts = UnbalancedDirichlet(alpha)(labels, k, generator(seed, "partition"))
        shares = torch.stack([labels[part].bincount(minlength=40) for part in parts]) / 60
        squares.append(shares.square().sum(dim=0))
    assert torch.cat(squares).mean().item() == pytest.approx((alpha + 1) / (k * alpha + 1), abs=0.06)


def test_small_alphas_give_clients_few_classes_to_the_end() -> None:
    # When the class of a client runs out, the next one of its mix follows, not a sample of all that are left.
    labels = torch.arange(5000) % 10
    for alpha in (1e-4, 1e-6, 1e-20, 5e-324):
        parts = Dirichlet(alpha)(labels, 100, generator(1, "partition"))
        assert sum(len(labels[part].unique()) for part in parts) < 125


def test_very_large_alphas_are_even() -> None:
    labels = torch.arange(3000) % 3
    for alpha in (1e12, 1e308, 1.7e308):
        parts = UnbalancedDirichlet(alpha)(labels, 4, generator(1, "partition"))
        assert {len(part) for part in parts} == {750}


# torch 2.6 draws other numbers from the same, almost equal shares, so multinomial is not bitwise the same everywhere.
other_multinomial = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14), reason="an older torch.multinomial may draw others"
)


@pytest.mark.parametrize(
    "partition, checksum",
    [
        (Dirichlet(0.1), 535740196),
        (Dirichlet(1.0), 2297066460),
        pytest.param(Dirichlet(1000.0), 2577798485, marks=other_multinomial),
        (UnbalancedDirichlet(0.1), 3912551308),
        (UnbalancedDirichlet(1.0), 1189832868),
        (UnbalancedDirichlet(1000.0), 2793981685),
    ],
)
def test_partitions_of_published_runs_stay(partition: Dirichlet, checksum: int) -> None:
    parts = partition(torch.arange(1000) % 10, 10, torch.Generator().manual_seed(1))
    assert zlib.crc32(torch.cat(parts).numpy().tobytes()) == checksum


def test_a_client_of_two_shards_sees_two_classes() -> None:
    labels = torch.arange(2000) % 10
    parts = LabelShards(2)(labels, 50, generator(0, "partition"))
    assert all(len(labels[part].unique()) <= 2 for part in parts)


def test_every_client_gets_min_samples() -> None:
    parts = UnbalancedDirichlet(1.0, min_samples=20)(torch.arange(4000) % 10, 10, generator(0, "partition"))
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 20 and max(sizes) > 1.2 * min(sizes)


def test_min_samples_out_of_reach_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"90 .* 10 clients .* alpha = 0.1") as error:
        UnbalancedDirichlet(0.1, min_samples=90)(torch.arange(100) % 10, 10, generator(0, "partition"))
    assert error.value.key == "min_samples"


@pytest.mark.parametrize("partition", ALL, ids=repr)
def test_more_clients_than_samples_is_refused(partition: Partition) -> None:
    with pytest.raises(ConfigError, match=r"4 .* 3 ") as error:
        partition(torch.zeros(3, dtype=torch.int64), 4, generator(0, "partition"))
    assert error.value.key == "clients"


def test_more_shards_than_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 .* 4") as error:
        LabelShards(5)(torch.zeros(9, dtype=torch.int64), 2, generator(0, "partition"))
    assert error.value.key == "shards_per_client"


@pytest.mark.parametrize("kind", [Dirichlet, UnbalancedDirichlet])
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan"), "a"])
def test_alpha_must_be_positive_and_finite(kind: type[Dirichlet], alpha: float) -> None:
    with pytest.raises(ConfigError, match=str(alpha)) as error:
        kind(alpha)
    assert error.value.key == "alpha"


@pytest.mark.parametrize("partition", ALL, ids=repr)
def test_a_thousand_clients_take_seconds_at_most(partition: Partition) -> None:
    started = time.perf_counter()
    partition(torch.arange(60_000) % 10, 1000, generator(0, "partition"))
    assert time.perf_counter() - started < 5


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.floats(0, 0.99), st.integers(0, 9))
def test_every_sample_is_for_training_or_validation(sizes: list[int], share: float, seed: int) -> None:
    parts = list(torch.randperm(sum(sizes), generator=generator(seed, "test")).split(sizes))
    train_parts, val_parts = hold_out(parts, share, generator(seed, "validation"))
    for part, train, val in zip(parts, train_parts, val_parts, strict=True):
        assert sorted([*train.tolist(), *val.tolist()]) == sorted(part.tolist())
        assert len(val) == min(round(share * len(part)), len(part) - 1)
        assert [index for index in part.tolist() if index in set(train.tolist())] == train.tolist()


CLIENT_LABELS = st.lists(st.integers(0, 3), max_size=30)  # a client may have no samples


@given(
    train=st.lists(CLIENT_LABELS, min_size=1, max_size=6).filter(any),
    test=st.lists(st.integers(0, 4), min_size=1, max_size=60),
)
def test_clients_get_test_samples_in_proportion_to_their_classes(train: list[list[int]], test: list[int]) -> None:
    train_labels, test_labels = [torch.tensor(part, dtype=torch.int64) for part in train], torch.tensor(test)
    parts = split_test_samples(train_labels, test_labels, generator(0, "test"))
    trained = torch.isin(test_labels, torch.cat(train_labels))
    assert sorted(torch.cat(parts).tolist()) == trained.nonzero().squeeze(1).tolist()
    for label in range(5):
        trains = torch.tensor([int((part == label).sum()) for part in train_labels]).double()
        tests = torch.tensor([int((test_labels[part] == label).sum()) for part in parts])
        if trains.sum():
            assert bool(((tests - trains / trains.sum() * (test_labels == label).sum()).abs() <= 1).all())
