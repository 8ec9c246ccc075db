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
    KeepMask,
    MagnitudeVote,
    MajorityVote,
    MeanBudget,
    RankedVote,
    ServerState,
    TruncatingVote,
)
from flash_pl.server.updates import ClientUpdate
from flash_pl.sparsity import ExactDraw, Layout, water_fill

LAYOUT = Layout(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)))
N = LAYOUT.maskable


def election(seed: int, voters: int, density: float) -> tuple[ServerState, list[ClientUpdate]]:
    """Weights from a few values, so that many are equal, and updates of clients with different numbers of samples and
    layer densities."""
    weights = torch.randint(-3, 4, (LAYOUT.size,), generator=generator(seed, "weights")).float()
    draws = generator(seed, "layers")
    layers = [water_fill(torch.rand(2, generator=draws).double() + 0.1, LAYOUT.sizes, density) for _ in range(voters)]
    masks = [ExactDraw()(LAYOUT, weights, layers[i], generator(seed, "mask", client=i)) for i in range(voters)]
    union = torch.stack(masks).any(0)
    weights[:N] *= union
    server = ServerState.start(LAYOUT, weights, density)
    return server, [
        ClientUpdate(i, 1 + i % 3, mask, LAYOUT.densities(mask), LAYOUT.densities(mask)) for i, mask in enumerate(masks)
    ]


def votes(updates: list[ClientUpdate]) -> list[int]:
    return [sum(b.samples for b in updates if b.mask[j]) for j in range(N)]


def by_magnitude(server, updates):
    return [(-abs(float(server.weights[j])), -v, j) for j, v in enumerate(votes(updates))]


def by_majority(server, updates):
    return [(-v, -abs(float(server.weights[j])), j) for j, v in enumerate(votes(updates))]


def by_both(server, updates):
    total = sum(b.samples for b in updates)
    return [(-abs(float(server.weights[j])) * (v / total) ** 2, -v, j) for j, v in enumerate(votes(updates))]


@pytest.mark.parametrize("budget", [MeanBudget(), AggregateBudget()])
@pytest.mark.parametrize(
    ("vote", "key"),
    [(MagnitudeVote, by_magnitude), (MajorityVote, by_majority), (lambda b: ConsensusVote(2.0, b), by_both)],
)
@given(seed=st.integers(0, 999), voters=st.integers(1, 4), density=st.floats(0.1, 0.9))
def test_votes_pick_exactly_the_first_by_brute_force(vote, key, budget, seed, voters, density):
    server, updates = election(seed, voters, density)
    before = server.weights.clone()
    mask = vote(budget)(server, updates, density)
    assert torch.equal(server.weights, before)
    assert int(mask.sum()) == round(density * LAYOUT.maskable)
    keys = key(server, updates)
    for layer, k in zip(LAYOUT.layers, LAYOUT.counts(mask).tolist(), strict=True):
        # Products of floats may round differently here and there: compare the keys, and places only among equal ones.
        order = sorted(range(layer.start, layer.stop), key=lambda j: tuple(round(part, 5) for part in keys[j]))
        chosen = [j for j in range(layer.start, layer.stop) if mask[j]]
        assert chosen == sorted(order[:k])


def test_budgets_are_the_clients_mean_or_the_densities_of_the_union():
    server, updates = election(seed=5, voters=3, density=0.3)
    densities = torch.stack([update.densities for update in updates])
    assert len(densities.unique(dim=0)) == 3
    assert torch.equal(MeanBudget()(server, updates), densities.mean(0))
    assert torch.equal(AggregateBudget()(server, updates), LAYOUT.densities(server.weights[:N] != 0))


def test_no_agreement_is_magnitude_and_much_of_it_is_majority():
    server, updates = election(seed=3, voters=3, density=0.4)
    server.weights[:N] = torch.rand(N, generator=generator(0, "distinct")) + 0.5
    assert torch.equal(ConsensusVote(0.0)(server, updates, 0.4), MagnitudeVote()(server, updates, 0.4))
    assert torch.equal(ConsensusVote(50.0)(server, updates, 0.4), MajorityVote()(server, updates, 0.4))
    with pytest.raises(ConfigError, match="-1") as error:
        ConsensusVote(-1)
    assert error.value.key == "agreement"


def test_keep_keeps_and_truncation_never_exceeds_the_budget():
    server, updates = election(seed=2, voters=3, density=0.3)
    assert KeepMask()(server, updates, 0.3) is server.mask
    counts = LAYOUT.counts(TruncatingVote()(server, updates, 0.25))
    mean = torch.stack([update.densities for update in updates]).mean(0)
    assert torch.equal(counts, (water_fill(mean, LAYOUT.sizes, 0.25) * LAYOUT.sizes).floor().long())


def test_a_rank_of_nan_is_refused():
    class Entropy(RankedVote):
        def rank(self, server, updates):
            share = torch.stack([update.mask for update in updates]).float().mean(0)
            return share * share.log(), None  # 0 * log(0) where no client has the weight

    server, updates = election(seed=2, voters=3, density=0.3)
    without = N - int(torch.stack([update.mask for update in updates]).any(0).sum())
    assert without
    with pytest.raises(ValueError, match=rf"^Entropy\.rank gives NaN for {without} of {N} weights$"):
        Entropy()(server, updates, 0.3)
