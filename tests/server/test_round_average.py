"""The average over rounds against its definition, and what of it is deployed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl import NST, PDST, SPDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.export import SavedRun
from flash_pl.loops import server_model
from flash_pl.server import RoundAverage, ServerState, UniformSampler
from flash_pl.sparsity import Layout


def server(weights):
    return ServerState.start(Layout(torch.nn.Linear(4, 1)), torch.tensor(weights), 0.5)


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12), st.integers(0, 5))
def test_round_t_weighs_as_the_rising_factorial_says(values, power):
    """For whole powers the weight of round t is t (t + 1) ... (t + power - 1), about t^power."""
    average, state = RoundAverage(power), server([0.0] * 5)
    for round, value in enumerate(values):
        state.weights.fill_(value)
        average.update(state, state.mask, round)
    weights = [float(torch.arange(t, t + power).double().prod()) for t in range(1, len(values) + 1)]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    torch.testing.assert_close(state.round_average, torch.full((5,), expected), rtol=1e-4, atol=1e-4)


def test_a_weight_that_enters_the_mask_counts_for_the_rounds_before_as_it_was_then():
    average, state = RoundAverage(0), server([2.0, 2, 0, 0, 2])
    state.mask = before = torch.tensor([True, True, False, False])
    average.update(state, before, 0)
    state.weights.copy_(torch.tensor([4.0, 0, 4, 0, 4]))
    state.mask = torch.tensor([True, False, True, False])
    average.update(state, before, 1)
    assert state.round_average.tolist() == [3, 1, 4, 0, 3]
    assert state.masked().tolist() == [3, 0, 4, 0, 3] and state.weights.tolist() == [4, 0, 4, 0, 4]
    support = state.support
    state.weights.fill_(7.0)
    average.update(state, support, 2)
    assert state.round_average.tolist() == [
        pytest.approx(value) for value in ((3 + 3 + 7) / 3, 7, 5, 7, (3 + 3 + 7) / 3)
    ]


def test_a_mask_that_is_only_for_evaluation_changes_no_average():
    """Methods like NST keep the weights outside of it; they have values in all rounds."""
    average, state = RoundAverage(0), server([2.0, 2, 2, 2, 2])
    for round, (value, active) in enumerate([(2.0, 0), (4.0, 1), (6.0, 2)]):
        support = state.support
        state.weights.fill_(value)
        state.mask = torch.arange(4) == active
        average.update(state, support, round)
    assert state.round_average.tolist() == [4] * 5


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [PDST, SPDST, NST])
def test_training_is_the_same_and_another_model_is_deployed(scheduler, unaware, tiny_data):
    def fit(average):
        torch.manual_seed(0)
        module = unaware()
        trainer = FederatedTrainer(
            scheduler(), density=0.25, rounds=4, cohort=3, seed=1, accelerator="cpu", round_average=average
        )
        return trainer.fit(module, tiny_data), module

    (plain, _), (averaged, module) = fit(None), fit(RoundAverage(1))
    assert torch.equal(plain.server.weights, averaged.server.weights)
    assert not torch.equal(plain.server.masked(), averaged.server.masked())
    assert plain.metrics["val_loss"] != averaged.metrics["val_loss"]
    assert "val_loss_union" in plain.metrics and "val_loss_union" not in averaged.metrics  # not a model of one round
    deployed = server_model(averaged).tensors
    assert all(torch.equal(value, deployed[name]) for name, value in module.state_dict().items())


def test_a_round_without_clients_counts_with_the_model_it_left(unaware, tiny_data):
    class Gaps(UniformSampler):
        def __call__(self, population, cohort, seed, round):
            return [] if round in (0, 2) else super().__call__(population, cohort, seed, round)

    class Watch(Callback):
        def on_round_end(self, loop, row):
            models.append(loop.server.weights.clone())

    models = []
    settings = {"density": 0.25, "rounds": 5, "cohort": 3, "seed": 1, "accelerator": "cpu"}
    trainer = FederatedTrainer(PDST(), sampler=Gaps(), round_average=RoundAverage(0), callbacks=[Watch()], **settings)
    loop = trainer.fit(unaware(), tiny_data)
    assert torch.equal(models[1], models[2]) and not torch.equal(models[2], models[3])
    torch.testing.assert_close(loop.server.round_average, torch.stack(models).mean(0))


@pytest.mark.slow
def test_a_resumed_run_deploys_the_same_and_one_without_an_average_none(unaware, tiny_data, tmp_path):
    def run(rounds, folder, ckpt_path=None, round_average=True):
        torch.manual_seed(0)
        trainer = FederatedTrainer(
            NST(),
            density=0.25,
            rounds=rounds,
            cohort=3,
            seed=1,
            accelerator="cpu",
            round_average=RoundAverage() if round_average else None,
            callbacks=[Checkpoint(folder)],
        )
        return trainer.fit(unaware(), tiny_data, ckpt_path=ckpt_path)

    whole = run(5, tmp_path / "whole")
    run(2, tmp_path / "parts")
    resumed = run(5, tmp_path / "parts", "last")
    assert torch.equal(whole.server.masked(), resumed.server.masked())
    assert whole.metrics["val_loss"] == resumed.metrics["val_loss"]
    run(2, tmp_path / "other")
    without = run(5, tmp_path / "other", "last", round_average=False)
    assert without.server.round_average is None and torch.equal(without.server.weights, whole.server.weights)


@pytest.mark.slow
def test_the_command_line_averages_and_exports_it(tmp_path, monkeypatch):
    from flash_pl.cli import main

    monkeypatch.chdir(tmp_path)
    tiny = ["data=synthetic", "model=lenet5", "clients=4", "cohort=2", "rounds=3", "trainer.progress=false"]
    tiny += ["data.samples=80", "data.test_samples=20"]
    assert main(["fit", "pdst", *tiny, "run_dir=plain"]) == 0
    assert main(["fit", "pdst", *tiny, "run_dir=mean", "round_average.power=2"]) == 0
    plain, mean = (SavedRun(f"{name}/checkpoints/last.ckpt") for name in ("plain", "mean"))
    assert plain.config["round_average"] is None and mean.config["round_average"]["init_args"]["power"] == 2
    ours, theirs = plain.model().tensors, mean.model().tensors
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    saved = torch.load("mean/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[f"model.{name}"], theirs[name]) for name in theirs)


def test_a_negative_power_is_refused():
    with pytest.raises(ConfigError, match="power"):
        RoundAverage(-1)
