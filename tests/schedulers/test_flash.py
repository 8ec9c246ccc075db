"""Methods of FLASH and what they are built of, in a real federated run."""

import warnings

import pytest
import torch

from flash_pl import JMWST, NST, PDST, SPDST, Dense, FederatedTrainer
from flash_pl.callbacks import Callback
from flash_pl.client import ClientContext
from flash_pl.data import IID, Synthetic
from flash_pl.errors import ConfigError
from flash_pl.schedulers import (
    STEAD,
    Constant,
    Cosine,
    DynamicSparseTraining,
    EveryEpoch,
    EverySteps,
    FedDST,
    FedRTS,
    LastStep,
    Linear,
    MagnitudeUpload,
    Sensitivity,
    SparseScheduler,
    TopK,
)
from flash_pl.sparsity import Gradient, KeepLayers, Move, MoveResult, Saliency, TotalMagnitude

STAGE_1 = Sensitivity(init_fraction=0.25, epochs=2)
SCHEDULERS = {
    "base": SparseScheduler,
    "dense": Dense,
    "dst": DynamicSparseTraining,
    "nst": NST,
    "pdst": PDST,
    "magnitude upload": MagnitudeUpload,
    "top k": TopK,
    "rigl": lambda: NST(move=Move(growth=Gradient(), redistribution=KeepLayers())),
    "momentum": lambda: NST(
        move=Move(Saliency(), Gradient(), TotalMagnitude(), memory=0.9), interval=EverySteps(steps=2)
    ),
    "last step": lambda: NST(move=Move(redistribution=KeepLayers()), interval=LastStep(), decay=Cosine(rounds=2)),
    "spdst": lambda: SPDST(sensitivity=STAGE_1),
    "jmwst": lambda: JMWST(sensitivity=STAGE_1),
    "jmwst every second round": lambda: JMWST(sensitivity=STAGE_1, interval=EveryEpoch(rounds=2)),
}


@pytest.mark.parametrize("make", [NST, JMWST, FedDST, FedRTS, STEAD])
def test_a_mask_that_moves_after_the_last_step_needs_a_rate_that_is_not_0_there(make):
    often = {} if make is STEAD else {"interval": LastStep()}
    for decay in (Linear(), Cosine()):
        with pytest.raises(ConfigError, match=type(decay).__name__) as error:
            make(decay=decay, **often)
        assert error.value.key == "decay"
    for decay in (Linear(rounds=3), Constant()):
        make(decay=decay, **often)


class Watch(Callback):
    """Checks every client's report and every round's server."""

    def __init__(self, density: float) -> None:
        self.density, self.reports, self.rows = density, 0, []

    def on_client_end(self, loop, update):
        expected = round(self.density * loop.server.layout.maskable)
        assert int(update.mask.sum()) == expected
        assert not loop.client.arena[: loop.server.layout.maskable][~update.mask].any()
        assert torch.equal(update.densities, loop.server.layout.densities(update.mask))
        self.reports += 1

    def on_round_end(self, loop, row):
        server = loop.server
        assert int(server.mask.sum()) == round(self.density * server.layout.maskable)
        if not isinstance(loop.scheduler, NST | MagnitudeUpload):  # which keeps the union
            assert not server.weights[: server.layout.maskable][~server.mask].any()
        self.rows.append(row)


def run(make, unaware, data, rounds=3, ckpt_path=None, callbacks=()):
    torch.manual_seed(7)
    scheduler = make()
    watch = Watch(1.0 if isinstance(scheduler, Dense) else 0.2)
    trainer = FederatedTrainer(
        scheduler, density=0.2, rounds=rounds, cohort=3, seed=1, accelerator="cpu", callbacks=[watch, *callbacks]
    )
    return trainer.fit(unaware(), data, ckpt_path=ckpt_path), watch


@pytest.mark.parametrize("name", SCHEDULERS)
def test_counts_are_exact(name, unaware, tiny_data):
    _, watch = run(SCHEDULERS[name], unaware, tiny_data)
    assert watch.reports == 9 and len(watch.rows) == 3


def test_the_mismatches_tell_the_methods_apart(unaware, tiny_data):
    rows = {name: run(SCHEDULERS[name], unaware, tiny_data)[1].rows for name in ("nst", "pdst", "jmwst")}
    assert all(row["mismatch_clients"] == row["mismatch_temporal"] == 0 for row in rows["pdst"])
    assert all(row["mismatch_clients"] > 0 for row in rows["nst"] + rows["jmwst"])
    assert rows["nst"][-1]["density_union"] > 0.2


def test_jmwst_votes_for_the_largest_aggregated_weights(unaware, tiny_data):
    loop, watch = run(SCHEDULERS["jmwst"], unaware, tiny_data)
    assert all(row["moved"] > 0 and row["mismatch_temporal"] > 0 and row["mismatch_server"] > 0 for row in watch.rows)
    union, layout = loop.server.union[: loop.server.layout.maskable].abs(), loop.server.layout
    for weights, mask in zip(layout.split(union), layout.split(loop.server.mask), strict=True):
        if mask.any() and not mask.all():
            assert weights[mask].min() >= weights[~mask].max()


def test_the_mask_moves_when_and_as_much_as_the_paper_says():
    """19 batches: with one epoch once, after ten steps, by 0.25 (1 - 10/19); with three at the end of the first two."""

    def moves(epochs):
        rates = {}

        class Client:
            context = ClientContext(0, 0, epochs, 19, seed=0)
            layout = weights = mask = None

            def move_mask_(self, mask, survivors):
                pass

        def move(layout, weights, mask, rate, generator, gradient):
            rates[step] = rate
            return MoveResult(None, None)

        move.needs_gradient, move.memory = False, 0.0
        scheduler = DynamicSparseTraining(move=move)
        for step in range(1, 19 * epochs + 1):
            scheduler.on_batch_end(Client(), step)
        return rates

    assert moves(1) == {10: pytest.approx(0.25 * (1 - 10 / 19))}
    assert moves(3) == {19: pytest.approx(0.25 * 2 / 3), 38: pytest.approx(0.25 / 3)}


@pytest.mark.parametrize("name", ["nst", "jmwst"])
def test_a_trainer_can_be_used_twice(name, unaware, tiny_data):
    trainer = FederatedTrainer(SCHEDULERS[name](), density=0.2, rounds=2, cohort=3, accelerator="cpu")
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        weights.append(trainer.fit(unaware(), tiny_data).server.weights)
    assert torch.equal(*weights)


def test_frozen_rounds_of_jmwst_move_nothing(unaware, tiny_data):
    _, watch = run(SCHEDULERS["jmwst every second round"], unaware, tiny_data)
    assert [row["mismatch_clients"] > 0 for row in watch.rows] == [True, False, True]
    assert watch.rows[1]["moved"] == 0


@pytest.mark.parametrize("total", [1, 7, 100, 1000])
def test_stage_1_takes_the_exact_share_of_the_clients(total):
    """0.29 * 100 is 28.999999999999996 in floating point."""
    for hundredths in range(1, 101):
        expected = max(1, hundredths * total // 100)
        assert Sensitivity(init_fraction=hundredths / 100).num_clients(total) == expected


@pytest.mark.parametrize(("samples", "epochs", "moves"), [(16, 1, False), (17, 1, True), (8, 1, False), (8, 2, True)])
def test_a_client_that_never_moves_its_mask_is_told(samples, epochs, moves, unaware):
    """With one epoch the only move is after the middle batch, and its fraction is 0 at the last step."""
    data = Synthetic(samples=4 * samples, test_samples=8, classes=4, shape=(1, 8, 8), clients=4, batch_size=8)
    data.partition = IID()
    run = FederatedTrainer(NST(), density=0.3, rounds=1, cohort=1, local_epochs=epochs, accelerator="cpu")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        loop = run.fit(unaware(), data)
    told = [str(warning.message) for warning in seen if "never moves its mask" in str(warning.message)]
    assert (not told) == moves == bool(loop.metrics["moved"]), (told, loop.metrics["moved"])
