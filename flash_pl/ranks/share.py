"""Who trains whom."""

from collections.abc import Sequence


def share(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Divide jobs over ranks by longest processing time first: each goes to the rank with the least work so far.

    The makespan is at most 4/3 - 1/(3 ranks) of the best one (Graham, SIAM J. Appl. Math. 17, 1969). Equal costs go by
    position, equal loads by rank, so every rank finds the same division without asking.

    Args:
        costs: of the jobs, such as a client's number of samples.

    Returns:
        For every rank the positions of its jobs, increasing; some are empty where jobs are few.

    >>> share([5, 1, 4, 2], 2)
    [[0, 1], [2, 3]]
    """
    loads, parts = [0.0] * ranks, [[] for _ in range(ranks)]  # type: tuple[list[float], list[list[int]]]
    for job in sorted(range(len(costs)), key=lambda job: -costs[job]):
        rank = loads.index(min(loads))
        loads[rank] += costs[job]
        parts[rank].append(job)
    return [sorted(part) for part in parts]
