"""Votes: exact counts, brute force on small masks, the authors' truncation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flash_pl import ConfigError
from flash_pl.seeding import generator
from flash_pl.server import (
    AggregateBudget,
    ConsensusVote,
    Keep,
    MagnitudeVote,
    MajorityVote,
    MeanBudget,
    ServerState,
    TruncatingVote,
)
from flash_pl.server.updates import Ballot
from flash_pl.sparsity import ExactDraw, Layout, total_count, water_fill

LAYOUT = Layout(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)))
N = LAYOUT.maskable


def election(seed: int, voters: int, density: float) -> tuple[ServerState, list[Ballot]]:
    """Weights from a few values, so that many are equal, and ballots of clients with different numbers of samples and
    layer densities."""
    weights = torch.randint(-3, 4, (LAYOUT.size,), generator=generator(seed, "weights")).float()
    draws = generator(seed, "layers")
    layers = [water_fill(torch.rand(2, generator=draws).double() + 0.1, LAYOUT.sizes, density) for _ in range(voters)]
    masks = [ExactDraw()(LAYOUT, weights, layers[i], generator(seed, "mask", client=i)) for i in range(voters)]
    union = torch.stack(masks).any(0)
    weights[:N] *= union
    server = ServerState.start(LAYOUT, weights, density)
    return server, [
        Ballot(i, 1 + i % 3, mask, LAYOUT.densities(mask), LAYOUT.densities(mask), {}, {})
        for i, mask in enumerate(masks)
    ]


def votes(ballots: list[Ballot]) -> list[int]:
    return [sum(b.samples for b in ballots if b.mask[j]) for j in range(N)]


def by_magnitude(server, ballots):
    return [(-abs(float(server.weights[j])), -v, j) for j, v in enumerate(votes(ballots))]


def by_majority(server, ballots):
    return [(-v, -abs(float(server.weights[j])), j) for j, v in enumerate(votes(ballots))]


def by_both(server, ballots):
    total = sum(b.samples for b in ballots)
    return [(-abs(float(server.weights[j])) * (v / total) ** 2, -v, j) for j, v in enumerate(votes(ballots))]


@pytest.mark.parametrize("budget", [MeanBudget(), AggregateBudget()])
@pytest.mark.parametrize(
    ("vote", "key"),
    [(MagnitudeVote, by_magnitude), (MajorityVote, by_majority), (lambda b: ConsensusVote(2.0, b), by_both)],
)
@given(seed=st.integers(0, 999), voters=st.integers(1, 4), density=st.floats(0.1, 0.9))
def test_votes_pick_exactly_the_first_by_brute_force(vote, key, budget, seed, voters, density):
    server, ballots = election(seed, voters, density)
    before = server.weights.clone()
    mask = vote(budget)(server, ballots, density)
    assert torch.equal(server.weights, before)
    assert int(mask.sum()) == total_count(LAYOUT.sizes, density)
    keys = key(server, ballots)
    for layer, k in zip(LAYOUT.layers, LAYOUT.counts(mask).tolist(), strict=True):
        # Products of floats may round differently here and there: compare the keys, and places only among equal ones.
        order = sorted(range(layer.start, layer.stop), key=lambda j: tuple(round(part, 5) for part in keys[j]))
        chosen = [j for j in range(layer.start, layer.stop) if mask[j]]
        assert chosen == sorted(order[:k])


def test_budgets_are_the_ballots_mean_or_the_unions_densities():
    server, ballots = election(seed=5, voters=3, density=0.3)
    found = torch.stack([ballot.densities for ballot in ballots])
    assert len(found.unique(dim=0)) == 3
    assert torch.equal(MeanBudget()(server, ballots), found.mean(0))
    assert torch.equal(AggregateBudget()(server, ballots), LAYOUT.densities(server.weights[:N] != 0))


def test_no_agreement_is_magnitude_and_much_of_it_is_majority():
    server, ballots = election(seed=3, voters=3, density=0.4)
    server.weights[:N] = torch.rand(N, generator=generator(0, "distinct")) + 0.5
    assert torch.equal(ConsensusVote(0.0)(server, ballots, 0.4), MagnitudeVote()(server, ballots, 0.4))
    assert torch.equal(ConsensusVote(50.0)(server, ballots, 0.4), MajorityVote()(server, ballots, 0.4))
    with pytest.raises(ConfigError, match="agreement: -1"):
        ConsensusVote(-1)


def test_keep_keeps_and_truncation_never_exceeds_the_budget():
    server, ballots = election(seed=2, voters=3, density=0.3)
    assert Keep()(server, ballots, 0.3) is server.mask
    counts = LAYOUT.counts(TruncatingVote()(server, ballots, 0.25))
    mean = torch.stack([ballot.densities for ballot in ballots]).mean(0)
    assert torch.equal(counts, (water_fill(mean, LAYOUT.sizes, 0.25) * LAYOUT.sizes).floor().long())
