"""Cohorts: distinct clients, fixed by seed and round, and what each sampler promises beyond that."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_pl import ConfigError
from flash_pl.loops.settings import Plan, RoundDecay
from flash_pl.server import (
    AvailabilitySampler,
    Population,
    RoundRobinSampler,
    SampleWeightedSampler,
    TraceSampler,
    UniformSampler,
)
from flash_pl.sparsity import SparsityBudget, Tier

PEOPLE = Population(samples=(1, 1, 1, 1, 1, 1, 20, 20), tiers=(0, 0, 0, 1, 1, 1, 2, 2))
SAMPLERS = [UniformSampler(), SampleWeightedSampler(), RoundRobinSampler(), AvailabilitySampler([0.5, 0.2, 0.0])]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
@given(cohort=st.integers(1, 8), seed=st.integers(0, 99), round=st.integers(0, 99))
def test_cohorts_are_distinct_clients_that_repeat(sampler, cohort, seed, round):
    sampler.check(PEOPLE, cohort, rounds=100)
    drawn = sampler(PEOPLE, cohort, seed, round)
    assert len(set(drawn)) == len(drawn) <= cohort and set(drawn) <= set(range(8))
    assert drawn == sampler(PEOPLE, cohort, seed, round)
    if not isinstance(sampler, AvailabilitySampler):
        assert len(drawn) == cohort


@pytest.mark.parametrize("sampler", [UniformSampler(), SampleWeightedSampler()])
def test_rounds_and_seeds_differ(sampler):
    cohorts = [tuple(sampler(PEOPLE, 3, seed, round)) for seed in range(5) for round in range(5)]
    assert len(set(cohorts)) > 10


def test_samples_make_a_client_likelier():
    first = Counter(SampleWeightedSampler()(PEOPLE, 1, 0, round)[0] for round in range(400))
    assert 0.8 < (first[6] + first[7]) / 400 < 0.94  # 40 / 46 is 0.87


def test_clients_without_samples_are_never_drawn_by_samples():
    some = Population((0, 0, 5, 0, 2))
    SampleWeightedSampler().check(some, 2, 10)
    assert {tuple(sorted(SampleWeightedSampler()(some, 2, 0, round))) for round in range(50)} == {(2, 4)}
    with pytest.raises(ConfigError, match="3 .* 2 clients that have samples"):
        SampleWeightedSampler().check(some, 3, 10)
    budget = SparsityBudget([Tier(0.1, 1.0)])
    with pytest.raises(ConfigError, match="^cohort: 3"):  # no setting of the sampler
        Plan(10, 3, 1, 0, budget, some, SampleWeightedSampler(), RoundDecay())


def test_a_turn_of_round_robin_has_everybody_once():
    turn = [client for round in range(4) for client in RoundRobinSampler()(PEOPLE, 2, 0, round)]
    assert sorted(turn) == list(range(8))


def test_tiers_are_offline_as_often_as_they_should():
    sampler = AvailabilitySampler([1.0, 0.5, 0.0])
    seen = Counter(PEOPLE.tiers[client] for round in range(400) for client in sampler(PEOPLE, 8, 1, round))
    assert seen[0] == 0 and seen[2] == 800 and 0.42 < seen[1] / 1200 < 0.58


@pytest.mark.parametrize(
    ("offline", "population"),
    [([0.5], PEOPLE), ([2, 0, 0], PEOPLE), ([1, 1, 1], PEOPLE), ([0.1], Population((1, 1)))],
    ids=["too few", "above 1", "nobody online", "no tiers"],
)
def test_impossible_availability_is_named(offline, population):
    with pytest.raises(ConfigError, match=re.escape(str(offline))) as error:
        AvailabilitySampler(offline).check(population, 2, 10)
    assert error.value.key == "offline"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])  # the latter is what Excel writes
def test_a_trace_is_followed_line_by_line(tmp_path, encoding):
    (tmp_path / "trace.txt").write_text("0 3, 5\n\n7\n", encoding=encoding)
    sampler = TraceSampler(tmp_path / "trace.txt")
    sampler.check(PEOPLE, 3, 3)
    assert [sampler(PEOPLE, 3, 0, round) for round in range(3)] == [[0, 3, 5], [], [7]]
    with pytest.raises(ConfigError, match="path: .*3 lines for 4 rounds"):
        sampler.check(PEOPLE, 3, 4)
    with pytest.raises(ConfigError, match="path: line 1 .* client [57]"):
        sampler.check(Population((1,) * 5), 3, 3)


@pytest.mark.parametrize("text", ["0 1\n2 2\n", "0 1\n-3\n", "0 1\nabc\n"])
def test_a_line_that_is_no_cohort_is_named(tmp_path, text):
    (tmp_path / "trace.txt").write_text(text)
    with pytest.raises(ConfigError, match="path: line 2"):
        TraceSampler(tmp_path / "trace.txt")


def test_a_missing_trace_is_named():
    with pytest.raises(ConfigError, match="path: nowhere.txt"):
        TraceSampler("nowhere.txt")
