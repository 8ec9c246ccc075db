"""Every partitioner deals every sample once."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flash_pl.data import IID, Dirichlet, LabelShards, Partition, UnbalancedDirichlet
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
    except ConfigError as error:  # few clients may be left empty by chance; that has to be said, not done
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
        # On average over clients: the last one of a balanced draw gets what the others left.
        assert iid.max(dim=1).values.mean() < 0.2
        assert skewed.max(dim=1).values.mean() > 0.5


def test_a_client_of_two_shards_sees_two_classes() -> None:
    labels = torch.arange(2000) % 10
    parts = LabelShards(2)(labels, 50, generator(0, "partition"))
    assert all(len(labels[part].unique()) <= 2 for part in parts)


def test_an_unbalanced_client_has_its_least() -> None:
    parts = UnbalancedDirichlet(1.0, min_samples=20)(torch.arange(4000) % 10, 10, generator(0, "partition"))
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 20 and max(sizes) > 1.2 * min(sizes)


def test_a_least_that_cannot_be_had_is_one_error() -> None:
    with pytest.raises(ConfigError, match="min_samples: 90"):
        UnbalancedDirichlet(0.1, min_samples=90)(torch.arange(100) % 10, 10, generator(0, "partition"))


@pytest.mark.parametrize("partition", ALL, ids=repr)
def test_more_clients_than_samples_is_refused(partition: Partition) -> None:
    with pytest.raises(ConfigError, match="clients"):
        partition(torch.zeros(3, dtype=torch.int64), 4, generator(0, "partition"))


@pytest.mark.parametrize("kind", [Dirichlet, UnbalancedDirichlet])
@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha_must_be_positive(kind: type[Dirichlet], alpha: float) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        kind(alpha)


@pytest.mark.parametrize("partition", ALL, ids=repr)
def test_a_thousand_clients_take_seconds_at_most(partition: Partition) -> None:
    started = time.perf_counter()
    partition(torch.arange(60_000) % 10, 1000, generator(0, "partition"))
    assert time.perf_counter() - started < 5
