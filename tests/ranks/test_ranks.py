"""How jobs are divided among ranks."""

from hypothesis import given
from hypothesis import strategies as st

from flash_pl.ranks import divide

costs = st.lists(st.integers(0, 100), max_size=30)


@given(costs, st.integers(1, 8))
def test_every_job_is_done_once_and_the_longest_rank_is_short(costs, ranks):
    shares = divide(costs, ranks)
    assert len(shares) == ranks and sorted(job for share in shares for job in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in shares)
    longest = max(sum(costs[job] for job in share) for share in shares)
    # The bound of list scheduling: no rank gets its last job while another rank has less work.
    assert longest <= sum(costs) / ranks + max(costs, default=0)


@given(st.integers(1, 20), st.integers(1, 8))
def test_equal_jobs_are_spread_evenly(jobs, ranks):
    sizes = [len(share) for share in divide([7] * jobs, ranks)]
    assert max(sizes) - min(sizes) <= 1
