"""How the rates of moves fall."""

import math
from types import SimpleNamespace

import pytest
import torch

from flash_pl.client import ClientContext
from flash_pl.config import build_trainer, compose, read_config
from flash_pl.schedulers import Constant, Cosine, FedRTS, Linear


@pytest.mark.parametrize(
    ("kind", "third"), [(Linear, 2 / 3), (Cosine, (1 + math.cos(math.pi / 3)) / 2), (Constant, 1.0)]
)
def test_a_rate_falls_over_rounds_or_within_each(kind, third):
    end = 1.0 if kind is Constant else 0.0
    over_rounds, within = kind(rounds=30), kind()
    assert [over_rounds(round, share=0.0) for round in (0, 10, 30, 99)] == pytest.approx([1, third, end, end])
    assert [over_rounds(round) for round in (-1, 9, 29, 98)] == pytest.approx([1, third, end, end])
    assert over_rounds(9, 0.5) == pytest.approx(kind()(0, 9.5 / 30))
    assert [within(7, share) for share in (0, 1 / 3, 1)] == pytest.approx([1, third, end])


@pytest.mark.parametrize(("rounds", "epochs", "batches"), [(40, 1, 19), (7, 3, 10), (1, 1, 19)])
def test_rigl_drops_what_its_authors_drop(rounds, epochs, batches):
    """alpha / 2 (1 + cos(pi t / T)) after step t of the whole run; alpha = 0.3, T is three quarters of it."""
    scheduler = build_trainer(compose(read_config("rigl"), [f"rounds={rounds}"])).scheduler
    steps, moves = epochs * batches, 0
    end = 0.75 * rounds * steps
    client = SimpleNamespace()
    for round in range(rounds):
        client.context = ClientContext(0, round, epochs, batches, seed=0)
        for step in range(1, steps + 1):
            t, due = round * steps + step, scheduler.due(client.context, step)
            expected = 0.15 * (1 + math.cos(math.pi * t / end)) if t < end else 0.0
            assert scheduler.rate(client.context, step) == pytest.approx(expected, abs=1e-12)
            assert not due or t < end
            assert scheduler.wants_dense_gradients(client, step - 1) == due  # a dense pass for moves alone
            moves += due
    assert moves == {40: 30, 7: 10, 1: 1}[rounds]


def test_fedrts_moves_in_rounds_of_the_port():
    scheduler = build_trainer(compose(read_config("fedrts"), ["rounds=90"])).scheduler
    assert [round for round in range(90) if scheduler.interval.in_round(round)] == [10, 20, 30, 40, 50]
    assert FedRTS().interval == scheduler.interval
    active = torch.tensor([1000])
    for t in (0, 10, 37, 50):
        assert scheduler.movable(active, t).tolist() == [int(0.2 / 2 * (1 + math.cos(math.pi * t / 50)) * 1000)]


def test_fedrts_moves_fewer_weights_in_later_rounds():
    active = torch.tensor([100, 40])
    scheduler = FedRTS(prune_rate=0.5, decay=Linear(rounds=10))
    assert [scheduler.movable(active, round).tolist() for round in (0, 5, 10)] == [[50, 20], [25, 10], [0, 0]]
