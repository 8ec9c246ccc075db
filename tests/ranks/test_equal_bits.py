"""A run has the same bits with any number of processes."""

import pytest
import torch
from torch.utils.data import Dataset

from flash_pl import PDST, EvaluationSchedule, FederatedTrainer
from flash_pl.callbacks import Callback, EarlyStopping
from flash_pl.config import build_trainer, compose, read_config
from flash_pl.data import PartitionedDataset

FLASH = ["dense", "pdst", "nst", "spdst", "jmwst", "hetero_jmwst", "hetero_nst"]
OTHERS = ["topk", "zerofl", "sparsyfed", "ssfl", "feddst", "fedrts", "fiarse", "heterofl", "rigl", "set", "stead"]
TIERS = "budget.tiers=[{density: 0.1, share: 0.5}, {density: 0.3, share: 0.5}]"
ROUNDS = 3


def outcome(loop):
    """The results of a run, as bytes and numbers; measured times are left out."""
    server = loop.server
    metrics = {name: value for name, value in loop.metrics.items() if not name.startswith("seconds")}
    tensors = [tensor.numpy().tobytes() for tensor in (server.weights, server.mask, server.union)]
    client_masks = loop.ledger.link.state_dict()
    masks = client_masks["masks"].numpy().tobytes(), client_masks["of"]
    return tensors, metrics, masks, loop.votes, loop.layer_mismatch


def trainer(scheduler: str, cohort: int) -> FederatedTrainer:
    arguments = ["density=0.3", "trainer.accelerator=cpu", f"rounds={ROUNDS}", f"cohort={cohort}", "clients=8"]
    arguments += ["data=synthetic", "trainer.eval_clients_every=2", "trainer.finetune_epochs=1"]
    if scheduler in ("spdst", "jmwst", "hetero_jmwst"):
        arguments += ["scheduler.sensitivity.init_fraction=0.4", "scheduler.sensitivity.epochs=2"]
    if scheduler in ("feddst", "fedrts"):
        arguments += ["scheduler.interval.rounds=2"]
    if scheduler in OTHERS:
        arguments += [TIERS]
    if scheduler.startswith("hetero_"):
        arguments += ["fleet=mixed", "fleet.deadline=0.05"]  # some clients are late
        arguments += ["server_optimizer=momentum", "round_average=polynomial"]
    return build_trainer(compose(read_config(scheduler), arguments))


def all_runs(schedulers, unaware, tiny_data, cohort):
    def runs(rank):
        outcomes = []
        for scheduler in schedulers:
            torch.manual_seed(0)
            outcomes.append(outcome(trainer(scheduler, cohort).fit(unaware(), tiny_data)))
        return outcomes

    return runs


@pytest.mark.parametrize("schedulers, size, cohort", [(FLASH, 2, 3), (FLASH, 4, 3), (OTHERS, 4, 3)])
def test_ranks_agree_with_one_process(schedulers, size, cohort, unaware, tiny_data, run_ranks):
    """Three clients on two ranks, and on four ranks, of which one has no client."""
    runs = all_runs(schedulers, unaware, tiny_data, cohort)
    alone = runs(0)
    for rank, outcomes in enumerate(run_ranks(size, runs)):
        for scheduler, outcome_of_rank, expected in zip(schedulers, outcomes, alone, strict=True):
            assert outcome_of_rank == expected, (scheduler, rank)


class Noisy(Dataset):
    """Samples with a random transform."""

    targets = [index % 4 for index in range(60)]

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return torch.full((1, 8, 8), float(index % 4)) + torch.rand(1, 8, 8), index % 4


def test_a_dataset_with_random_transforms(unaware, run_ranks):
    def run(rank, workers=0):
        torch.manual_seed(0)
        data = PartitionedDataset(Noisy(), Noisy(), clients=8, batch_size=4, workers=workers)
        return outcome(trainer("jmwst", cohort=3).fit(unaware(), data))

    expected = run(0)
    assert run(0, workers=1) == expected
    assert run_ranks(2, run) == [expected] * 2


def test_there_may_be_fewer_models_to_evaluate_than_ranks(unaware, tiny_data, run_ranks):
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


def test_all_ranks_start_with_the_buffers_of_rank_0(unaware, tiny_data, run_ranks):
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


def test_all_ranks_stop_early_in_the_same_round(unaware, tiny_data, run_ranks):
    """The seconds of a round, which differ from rank to rank, must not let one rank stop and another go on."""

    class Seconds(Callback):
        def on_round_end(self, loop, row):
            row["noise"] = float(loop.round if loop.ranks.rank else -loop.round)

    def run(rank):
        callbacks = [Seconds(), EarlyStopping("noise", patience=2)]
        settings = {"rounds": 6, "cohort": 2, "accelerator": "cpu", "timeout": 30, "callbacks": callbacks}
        loop = FederatedTrainer(PDST(), density=0.2, **settings).fit(unaware(), tiny_data)
        return loop.round, loop.stop_reason

    first, second = run_ranks(2, run)
    assert first == second and first[0] == 3
