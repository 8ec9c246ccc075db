"""How the rates of moves fall."""

import math

import pytest
import torch

from flash_pl.schedulers import Constant, Cosine, FedRTS, Linear


@pytest.mark.parametrize(
    ("kind", "third"), [(Linear, 2 / 3), (Cosine, (1 + math.cos(math.pi / 3)) / 2), (Constant, 1.0)]
)
def test_a_rate_falls_over_rounds_or_within_each(kind, third):
    end = 1.0 if kind is Constant else 0.0
    over_rounds, within = kind(rounds=30), kind()
    assert [over_rounds(round) for round in (0, 10, 30, 99)] == pytest.approx([1, third, end, end])
    assert over_rounds(10, 0.9) == over_rounds(10)
    assert [within(7, share) for share in (0, 1 / 3, 1)] == pytest.approx([1, third, end])


def test_fedrts_moves_fewer_weights_in_later_rounds():
    active = torch.tensor([100, 40])
    scheduler = FedRTS(prune_rate=0.5, decay=Linear(rounds=10))
    assert [scheduler.movable(active, round).tolist() for round in (0, 5, 10)] == [[50, 20], [25, 10], [0, 0]]
