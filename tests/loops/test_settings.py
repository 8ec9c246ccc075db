"""The decay of learning rates and the rounds with an evaluation."""

import pytest

from flash_pl.errors import ConfigError
from flash_pl.loops import EvaluationSchedule, RoundDecay


def test_decay_is_the_papers_whatever_the_number_of_rounds():
    decay = RoundDecay(ratio=0.001 / 0.1, horizon=1000)
    assert 0.1 * decay.scale(0) == 0.1
    assert 0.1 * decay.scale(60) == pytest.approx(0.0759, abs=1e-4)
    assert 0.1 * decay.scale(600) == pytest.approx(0.0063, abs=1e-4)


def test_the_authors_decay_lags_by_a_round():
    late = RoundDecay(ratio=0.01, horizon=1000, delay=1)
    assert late.scale(0) == late.scale(1) == 1
    assert late.scale(60) == RoundDecay(0.01, 1000).scale(59)


def test_impossible_decays_are_named():
    with pytest.raises(ConfigError, match="lr_horizon: 0"):
        RoundDecay(horizon=0)
    with pytest.raises(ConfigError, match="lr_end"):
        RoundDecay(ratio=0)


def test_evaluation_comes_every_so_often_and_in_the_last_rounds():
    schedule = EvaluationSchedule(eval_every=4, eval_last=2)
    assert [done for done in range(1, 12) if schedule.server_due(done, 11)] == [4, 8, 10, 11]
    assert [done for done in range(1, 4) if EvaluationSchedule(eval_every=10).server_due(done, 3)] == [3]
