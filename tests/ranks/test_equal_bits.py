"""Any number of processes gives the same bits."""

import pytest
import torch

from flash_pl import PDST, EvaluationSchedule, FederatedTrainer
from flash_pl.config import build_trainer, compose, read_config

FLASH = ["dense", "pdst", "nst", "spdst", "jmwst", "hetero_jmwst", "hetero_nst"]
OTHERS = ["topk", "zerofl", "sparsyfed", "ssfl", "feddst", "fedrts", "fiarse", "heterofl", "rigl", "set", "stead"]
TIERS = "budget.tiers=[{density: 0.1, share: 0.5}, {density: 0.3, share: 0.5}]"
ROUNDS = 3


def outcome(loop):
    """All that a run finds, as bytes and numbers; times aside."""
    server = loop.server
    metrics = {name: value for name, value in loop.metrics.items() if not name.startswith("seconds")}
    tensors = [tensor.numpy().tobytes() for tensor in (server.weights, server.mask, server.union)]
    held = loop.ledger.link.state_dict()
    return tensors, metrics, held["masks"].numpy().tobytes(), held["of"], loop.votes, loop.layer_mismatch


def trainer(method: str, cohort: int) -> FederatedTrainer:
    arguments = ["density=0.3", "trainer.accelerator=cpu", f"rounds={ROUNDS}", f"cohort={cohort}", "clients=8"]
    arguments += ["data=synthetic", "trainer.eval_clients_every=2", "trainer.finetune_epochs=1"]
    if method in ("spdst", "jmwst", "hetero_jmwst"):
        arguments += ["scheduler.sensitivity.init_fraction=0.4", "scheduler.sensitivity.epochs=2"]
    if method in ("feddst", "fedrts"):
        arguments += ["scheduler.interval.rounds=2"]
    if method in OTHERS:
        arguments += [TIERS]
    if method.startswith("hetero_"):
        arguments += ["fleet=mixed", "fleet.deadline=0.05"]  # late for some
        arguments += ["server_optimizer=momentum", "round_average=polynomial"]
    return build_trainer(compose(read_config(method), arguments))


def all_runs(methods, unaware, tiny_data, cohort):
    def runs(rank):
        found = []
        for method in methods:
            torch.manual_seed(0)
            found.append(outcome(trainer(method, cohort).fit(unaware(), tiny_data)))
        return found

    return runs


@pytest.mark.parametrize("methods, size, cohort", [(FLASH, 2, 3), (FLASH, 4, 3), (OTHERS, 4, 3)])
def test_ranks_agree_with_one_process(methods, size, cohort, unaware, tiny_data, run_ranks):
    """Three clients on two ranks, and on four, where one has nothing to do."""
    runs = all_runs(methods, unaware, tiny_data, cohort)
    alone = runs(0)
    for rank, found in enumerate(run_ranks(size, runs)):
        for method, ours, expected in zip(methods, found, alone, strict=True):
            assert ours == expected, (method, rank)


def test_one_evaluation_may_be_shorter_than_the_ranks(unaware, tiny_data, run_ranks):
    def run(rank):
        trainer = FederatedTrainer(
            build_trainer(compose(read_config("pdst"), [])).scheduler,
            density=0.3,
            rounds=1,
            cohort=2,
            accelerator="cpu",
            evaluate=EvaluationSchedule(),
        )
        module = unaware()
        trainer.fit(module, tiny_data)
        return trainer.validate(module, tiny_data)

    first, second = run_ranks(2, run)
    assert first == second


def test_all_ranks_have_the_buffers_of_the_first(unaware, tiny_data, run_ranks):
    class Shuffled(unaware):
        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.randperm(64))

    def run(rank):
        torch.manual_seed(rank)
        module = Shuffled()
        FederatedTrainer(PDST(), density=0.3, rounds=1, cohort=2, accelerator="cpu").fit(module, tiny_data)
        return module.places.tolist()

    first, second = run_ranks(2, run)
    assert first == second
