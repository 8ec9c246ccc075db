"""Division of jobs over ranks."""

from hypothesis import given
from hypothesis import strategies as st

from flash_pl.ranks import share

costs = st.lists(st.integers(0, 100), max_size=30)


@given(costs, st.integers(1, 8))
def test_every_job_is_done_once_and_the_longest_rank_is_short(costs, ranks):
    parts = share(costs, ranks)
    assert len(parts) == ranks and sorted(job for part in parts for job in part) == list(range(len(costs)))
    assert all(part == sorted(part) for part in parts)
    longest = max(sum(costs[job] for job in part) for part in parts)
    # No rank could have been given its last job while another one was idle: the bound of list scheduling.
    assert longest <= sum(costs) / ranks + max(costs, default=0)


@given(st.integers(1, 20), st.integers(1, 8))
def test_equal_jobs_are_spread_evenly(jobs, ranks):
    sizes = [len(part) for part in share([7] * jobs, ranks)]
    assert max(sizes) - min(sizes) <= 1
