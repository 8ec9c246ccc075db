"""Server optimizers against their formulas, torch's own, and runs that go on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flash_pl import JMWST, PDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Checkpoint
from flash_pl.checkpoint import read_checkpoint
from flash_pl.server import FedAdam, FedAvgM, RoundAverage, ServerState
from flash_pl.sparsity import Layout


def server(module=None):
    layout = Layout(module or nn.Linear(8, 1))
    return ServerState.start(layout, torch.linspace(-1, 1, layout.size), 0.5)


means = st.lists(st.lists(st.floats(-8, 8, width=32), min_size=9, max_size=9), min_size=1, max_size=6)


@given(means, st.floats(0, 0.99), st.floats(0.01, 2))
def test_momentum_is_sgd_on_the_distance_to_the_mean(means, momentum, lr):
    state, optimizer = server(), FedAvgM(momentum, lr)
    weights = nn.Parameter(state.weights.clone())
    theirs = torch.optim.SGD([weights], lr=lr, momentum=momentum)
    for mean in map(torch.tensor, means):
        weights.grad = weights.detach() - mean
        theirs.step()
        state.weights = optimizer.step(state, mean)
    torch.testing.assert_close(state.weights, weights.detach(), rtol=1e-3, atol=1e-3)


def test_without_momentum_the_server_goes_to_the_mean():
    state, mean = server(), torch.arange(1.0, 10)
    torch.testing.assert_close(FedAvgM(momentum=0).step(state, mean), mean)
    torch.testing.assert_close(FedAvgM(momentum=0, lr=0.5).step(state, mean), (state.weights + mean) / 2)


def test_adam_by_hand():
    state, optimizer = server(), FedAdam(lr=0.1, beta1=0.5, beta2=0.75, tau=0.01)
    state.weights = torch.zeros(9)
    state.weights = optimizer.step(state, torch.full((9,), 4.0))  # m = 2, v = 4
    torch.testing.assert_close(state.weights, torch.full((9,), 0.1 * 2 / 2.01))
    moved = optimizer.step(state, state.weights + 1)  # m = 1.5, v = 3.25
    torch.testing.assert_close(moved - state.weights, torch.full((9,), 0.1 * 1.5 / (3.25**0.5 + 0.01)))


@pytest.mark.parametrize("optimizer", [FedAvgM(0.5), FedAdam()])
def test_a_weight_that_has_left_the_mask_comes_back_without_a_past(optimizer):
    state = server()
    state.weights = torch.zeros(9)
    optimizer.step(state, torch.ones(9))
    state.mask = torch.arange(8) != 1
    still = optimizer.step(state, torch.zeros(9))
    assert still[1] == 0 and bool((still[[0, *range(2, 9)]] > 0).all())  # biases are never masked


def test_a_mask_that_is_only_for_evaluation_takes_no_momentum():
    """Methods like NST keep the weights outside of it; v is 1, 1.5, 1.75 for all."""
    state, optimizer = server(), FedAvgM(0.5)
    state.weights = torch.full((9,), 0.25)
    for round in range(3):
        state.mask = torch.arange(8) == round
        state.weights = optimizer.step(state, state.weights + 1)
    torch.testing.assert_close(state.weights, torch.full((9,), 0.25 + 1 + 1.5 + 1.75))


def test_statistics_of_batch_norms_become_the_mean_and_never_overshoot():
    state, optimizer = server(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))), FedAvgM(0.9)
    for _ in range(3):
        mean = state.weights + 1
        state.weights = optimizer.step(state, mean)
    *parameters, mean_of, variance = state.layout.slots
    assert all(torch.equal(slot.view(state.weights), slot.view(mean)) for slot in (mean_of, variance))
    assert all(bool((slot.view(state.weights) > slot.view(mean)).all()) for slot in parameters)


def test_a_trainer_that_fits_twice_begins_without_a_past(unaware, tiny_data):
    trainer = FederatedTrainer(
        PDST(), density=0.25, rounds=3, cohort=3, seed=1, accelerator="cpu", server_optimizer=FedAvgM()
    )

    def fit():
        torch.manual_seed(0)
        return trainer.fit(unaware(), tiny_data).server.weights

    assert torch.equal(fit(), fit())


@pytest.mark.slow
@pytest.mark.parametrize("make", [FedAvgM, FedAdam])
def test_a_resumed_run_goes_on_with_its_moments(make, unaware, tiny_data, tmp_path):
    def run(rounds, folder, ckpt_path=None, optimizer=make):
        torch.manual_seed(0)
        trainer = FederatedTrainer(
            JMWST(),
            density=0.25,
            rounds=rounds,
            cohort=3,
            seed=1,
            accelerator="cpu",
            server_optimizer=optimizer and optimizer(),
            round_average=RoundAverage(),
            callbacks=[Checkpoint(folder)],
        )
        return trainer.fit(unaware(), tiny_data, ckpt_path=ckpt_path)

    whole = run(5, tmp_path / "whole")
    run(2, tmp_path / "parts")
    resumed = run(5, tmp_path / "parts", "last")
    assert torch.equal(whole.server.weights, resumed.server.weights)
    moments = read_checkpoint(tmp_path / "whole" / "last.ckpt")["flash_pl"]["server_optimizer"]
    assert moments and all(moment.any() for moment in moments.values())
    with pytest.raises(ConfigError, match=f"server_optimizer.*{make.__name__}"):
        run(5, tmp_path / "parts", "last", optimizer=None)


@pytest.mark.slow
def test_the_command_line_steps_and_writes_it_down(tmp_path, monkeypatch):
    from flash_pl.cli import main
    from flash_pl.export import SavedRun

    monkeypatch.chdir(tmp_path)
    tiny = ["data=synthetic", "model=lenet5", "clients=4", "cohort=2", "rounds=3", "trainer.progress=false"]
    tiny += ["data.samples=80", "data.test_samples=20"]
    for name, extra in {
        "mean": [],
        "momentum": ["server_optimizer.momentum=0.5"],
        "adam": ["server_optimizer=adam"],
    }.items():
        assert main(["fit", "pdst", *tiny, *extra, f"run_dir={name}"]) == 0
    saved = {name: SavedRun(f"{name}/checkpoints/last.ckpt") for name in ("mean", "momentum", "adam")}
    assert saved["mean"].config["server_optimizer"] is None
    assert saved["momentum"].config["server_optimizer"]["init_args"] == {"momentum": 0.5, "lr": 1.0}
    models = [torch.cat([value.flatten() for value in run.model().tensors.values()]) for run in saved.values()]
    assert not torch.equal(models[0], models[1]) and not torch.equal(models[1], models[2])


def test_training_with_momentum_differs_from_the_second_round_on(unaware, tiny_data):
    def fit(rounds, optimizer):
        torch.manual_seed(0)
        trainer = FederatedTrainer(
            PDST(), density=0.25, rounds=rounds, cohort=3, seed=1, accelerator="cpu", server_optimizer=optimizer
        )
        return trainer.fit(unaware(), tiny_data).server.weights

    torch.testing.assert_close(fit(1, FedAvgM()), fit(1, None))
    assert not torch.allclose(fit(2, FedAvgM()), fit(2, None))


@pytest.mark.parametrize(
    "make, key",
    [
        (lambda: FedAvgM(momentum=1.0), "momentum"),
        (lambda: FedAvgM(lr=0), "lr"),
        (lambda: FedAdam(beta1=-0.1), "beta1"),
        (lambda: FedAdam(beta2=1.0), "beta2"),
        (lambda: FedAdam(tau=0), "tau"),
        (lambda: FedAdam(lr=float("nan")), "lr"),
    ],
)
def test_impossible_settings_are_refused(make, key):
    with pytest.raises(ConfigError, match=key):
        make()
