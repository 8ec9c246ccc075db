"""Votes: exact counts, brute force on small masks, the authors' truncation."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flash_pl.report import Ballot
from flash_pl.seeding import generator
from flash_pl.server import AggregateBudgetVote, AverageBudgetVote, Keep, ServerState, TruncatingVote
from flash_pl.sparsity import ExactDraw, Layout, Uniform, total_count, water_fill

LAYOUT = Layout(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)))


def election(seed: int, voters: int, density: float) -> tuple[ServerState, list[Ballot]]:
    weights = torch.randn(LAYOUT.size, generator=generator(seed, "weights"))
    masks = [ExactDraw()(LAYOUT, Uniform()(LAYOUT, density), generator(seed, "mask", client=i)) for i in range(voters)]
    union = torch.stack(masks).any(0)
    weights[: LAYOUT.maskable] *= union
    server = ServerState.start(LAYOUT, weights, density)
    return server, [Ballot(i, 1, mask, LAYOUT.densities(mask), {}) for i, mask in enumerate(masks)]


@given(st.integers(0, 999), st.integers(1, 4), st.floats(0.1, 0.9))
def test_magnitude_votes_pick_exactly_the_largest(seed, voters, density):
    server, ballots = election(seed, voters, density)
    for vote in (AverageBudgetVote(), AggregateBudgetVote()):
        mask = vote(server, ballots, density)
        assert int(mask.sum()) == total_count(LAYOUT.sizes, density)
        for weights, chosen in zip(LAYOUT.split(server.weights.abs()), LAYOUT.split(mask), strict=True):
            k = int(chosen.sum())
            brute = sorted(range(len(weights)), key=lambda i, w=weights: (-float(w[i]), i))[:k]
            assert chosen.nonzero().squeeze(1).tolist() == sorted(brute)


def test_budgets_are_the_ballots_mean_or_the_unions_densities():
    server, ballots = election(seed=5, voters=3, density=0.3)
    mean = torch.stack([ballot.densities for ballot in ballots]).mean(0)
    assert torch.equal(AverageBudgetVote().layer_densities(server, ballots), mean)
    union = torch.stack([ballot.mask for ballot in ballots]).any(0)
    assert torch.equal(AggregateBudgetVote().layer_densities(server, ballots), LAYOUT.densities(union))


def test_keep_keeps_and_truncation_never_exceeds_the_budget():
    server, ballots = election(seed=2, voters=3, density=0.3)
    assert Keep()(server, ballots, 0.3) is server.mask
    counts = LAYOUT.counts(TruncatingVote()(server, ballots, 0.25))
    mean = torch.stack([ballot.densities for ballot in ballots]).mean(0)
    assert torch.equal(counts, (water_fill(mean, LAYOUT.sizes, 0.25) * LAYOUT.sizes).floor().long())
