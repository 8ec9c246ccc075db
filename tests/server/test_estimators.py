"""What the aggregate estimates, row by row of docs/estimators.md: the weight of every client, against plain numpy."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
import torch

from flash_pl.server import (
    AvailabilitySampler,
    ClientSampler,
    ClientUpdate,
    FedAvg,
    MaskedAverage,
    Population,
    RoundRobinSampler,
    SampleWeightedSampler,
    UniformSampler,
)

N, K = 20, 4
SIZES = np.array([100] * 4 + [10] * 16)  # four clients have 0.714 of the samples
TIERS = np.array([0, 1] * 10)
BY_SAMPLES, BY_CLIENTS = SIZES / SIZES.sum(), np.full(N, 1 / N)
POPULATION = Population(tuple(SIZES.tolist()), tuple(TIERS.tolist()))
LARGE = slice(0, 4)


def client_weights(
    sampler: ClientSampler,
    average: FedAvg,
    rounds: int,
    population: Population = POPULATION,
    counts: Callable[[int, int], bool] = lambda client, round: True,
) -> np.ndarray:
    """The mean weight of every client in the aggregate: client i sends the i-th unit vector."""
    n = population.clients
    units, total, used = torch.eye(n), torch.zeros(n, dtype=torch.float64), 0
    mask, densities = torch.ones(0, dtype=torch.bool), torch.ones(0, dtype=torch.float64)
    for round in range(rounds):
        cohort = sampler(population, K, 7, round)
        weights = sampler.weights(population, K)
        average.reset(torch.zeros(n), 0, [weights[client] for client in cohort])
        counted = [client for client in cohort if counts(client, round)]
        for client in counted:
            samples = population.samples[client]
            update = ClientUpdate(client, samples, mask, densities, densities, weight=weights[client])
            average.add(update, units[client], offered=mask)
        if counted:  # otherwise the server stays as it is
            total, used = total + average.mean(), used + 1
    return (total / used).numpy()


def expected_of_uniform(factors: np.ndarray) -> np.ndarray:
    """The weights over all cohorts of K clients, one by one."""
    cohorts = np.array(list(combinations(range(N), K)))
    weights = np.zeros((len(cohorts), N))
    np.put_along_axis(weights, cohorts, factors[cohorts], axis=1)
    return (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)


def test_uniform_by_clients_is_the_mean_over_clients() -> None:
    found = client_weights(UniformSampler(), FedAvg(by_samples=False), 700)
    assert np.abs(found - BY_CLIENTS).max() < 0.018  # a weight has a standard deviation of 0.1 a round
    assert np.allclose(expected_of_uniform(np.ones(N)), BY_CLIENTS)


def test_uniform_by_samples_is_a_ratio_near_the_mean_over_samples() -> None:
    found, expected = client_weights(UniformSampler(), FedAvg(), 700), expected_of_uniform(SIZES.astype(float))
    assert abs(found[LARGE].sum() - expected[LARGE].sum()) < 0.05
    assert 0.50 < expected[LARGE].sum() < 0.52 and BY_SAMPLES[LARGE].sum() > 0.71  # K = 4 is few


@pytest.mark.parametrize("by_samples", [True, False])
def test_sample_weighted_is_the_mean_over_samples(by_samples: bool) -> None:
    found = client_weights(SampleWeightedSampler(), FedAvg(by_samples), 700)
    assert np.abs(found - BY_SAMPLES).max() < 0.02
    assert abs(found[LARGE].sum() - BY_SAMPLES[LARGE].sum()) < 0.03


def test_a_client_that_is_drawn_every_time_counts_in_full_by_samples_only() -> None:
    sizes = np.array([1000] + [10] * 19)  # c n_0 is above 1
    population, share = Population(tuple(sizes.tolist())), 1000 / sizes.sum()
    by_samples = client_weights(SampleWeightedSampler(), FedAvg(), 600, population)
    equal = client_weights(SampleWeightedSampler(), FedAvg(by_samples=False), 100, population)
    assert by_samples[0] == pytest.approx(share, abs=1e-6) and np.abs(by_samples[1:] - 10 / sizes.sum()).max() < 0.006
    assert equal[0] == pytest.approx(1 / K, abs=1e-6)


@pytest.mark.parametrize("sizes", [SIZES, np.array([1000] + [10] * 19), np.array([0, 5, 0, 3, 2, 1, 9])], ids=str)
def test_sample_weighted_cohorts_have_the_chances_that_they_declare(sizes: np.ndarray) -> None:
    sampler, population = SampleWeightedSampler(), Population(tuple(sizes.tolist()))
    drawn = np.zeros(len(sizes))
    for round in range(1000):
        cohort = sampler(population, K, 3, round)
        assert len(set(cohort)) == K
        drawn[cohort] += 1 / 1000
    low, high = 0.0, 1e9  # c by bisection
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, middle * sizes).sum() < K else (low, middle)
    assert np.allclose(sampler.chances(population, K).numpy(), np.minimum(1, low * sizes))
    assert np.abs(drawn - np.minimum(1, low * sizes)).max() < 0.06


@pytest.mark.parametrize("by_samples", [True, False])
def test_round_robin_gives_every_cohort_the_same_weight(by_samples: bool) -> None:
    found = client_weights(RoundRobinSampler(), FedAvg(by_samples), N // K)
    factors = SIZES if by_samples else np.ones(N)
    cohorts = factors.reshape(N // K, K)
    assert np.allclose(found, (cohorts / cohorts.sum(axis=1, keepdims=True)).ravel() / (N // K), atol=1e-6)
    assert np.allclose(found, BY_CLIENTS) or by_samples


def test_availability_favors_tiers_that_are_online() -> None:
    found = client_weights(AvailabilitySampler([0.6, 0.0]), FedAvg(by_samples=False), 700)
    # Of the 10 clients of tier 0, B ~ Bin(10, 0.4) are online; the cohort is uniform among B + 10.
    rng = np.random.default_rng(0)
    online = rng.binomial(10, 0.4, 200_000)
    assert found[TIERS == 0].sum() == pytest.approx((online / (online + 10)).mean(), abs=0.04)


@pytest.mark.parametrize("by_samples", [True, False])
def test_clients_that_are_late_or_fail_leave_the_mean(by_samples: bool) -> None:
    slow = set(range(0, N, 5))  # always after the deadline, or failing always
    found = client_weights(UniformSampler(), FedAvg(by_samples), 700, counts=lambda client, round: client not in slow)
    factors = np.where(np.isin(np.arange(N), list(slow)), 0.0, SIZES if by_samples else 1.0)
    cohorts = np.array(list(combinations(range(N), K)))
    kept = factors[cohorts]
    kept = kept[kept.sum(axis=1) > 0] / kept.sum(axis=1)[kept.sum(axis=1) > 0, None]
    assert (found[list(slow)] == 0).all() and found.sum() == pytest.approx(1)
    assert found[1:4].sum() == pytest.approx(
        sum(kept[:, place][cohorts[factors[cohorts].sum(axis=1) > 0][:, place] < 4].sum() for place in range(K))
        / len(kept),
        abs=0.05,
    )


@pytest.mark.parametrize("by_samples", [True, False])
def test_with_tiers_a_plain_mean_shrinks_what_small_devices_lack_and_a_masked_mean_does_not(by_samples: bool) -> None:
    # Weight 0 is in every mask, weight 1 in those of tier 1 only; all clients that have a weight send 1.
    results = {}
    for kind in (FedAvg, MaskedAverage):
        average, cohort = kind(by_samples), range(K)
        average.reset(torch.zeros(2), 2, [int(SIZES[client]) for client in cohort])
        for client in cohort:
            mask = torch.tensor([True, bool(TIERS[client])])
            empty = torch.ones(1, dtype=torch.float64)
            average.add(ClientUpdate(client, int(SIZES[client]), mask, empty, empty), mask.float(), offered=mask)
        results[kind] = average.mean().tolist()
    factors: Sequence[float] = SIZES[:K] if by_samples else np.ones(K)
    share = float(np.sum(factors * TIERS[:K]) / np.sum(factors))
    assert results[FedAvg] == pytest.approx([1.0, share]) and results[MaskedAverage] == pytest.approx([1.0, 1.0])
