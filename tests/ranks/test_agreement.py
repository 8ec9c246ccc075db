"""A rank whose state differs ends the run on all ranks, in the round in which it differs."""

import random
import re
import time

import pytest
import torch

from flash_pl import JMWST, NST, PDST, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint, MetricsCSV
from flash_pl.checkpoint import CheckpointFolder
from flash_pl.cli import main
from flash_pl.costs import CostLedger
from flash_pl.errors import RankError
from flash_pl.loops import EvaluationSchedule, FederatedLoop
from flash_pl.schedulers import FedRTS, Sensitivity
from flash_pl.server import FedAvg, FedAvgM, MagnitudeVote, RoundAverage, UniformSampler
from flash_pl.sparsity import SparsityBudget, Tier

ROUND = 3  # in which a rank begins to differ


class Rows(Callback):
    """Notes the rounds that were reported."""

    def __init__(self):
        self.rounds = []

    def on_round_end(self, loop, row):
        self.rounds.append(loop.round)


def outcome(module, data, folder, scheduler=None, *callbacks, rounds=5, **settings):
    """The message that ends a run, and the rounds that were reported."""
    rows = Rows()
    callbacks = [rows, *callbacks, *([Checkpoint(folder, every=1)] if folder else [])]
    settings |= {"density": 0.3, "rounds": rounds, "cohort": 4, "accelerator": "cpu", "timeout": 30}
    trainer = FederatedTrainer(scheduler or PDST(), callbacks=callbacks, **settings)
    with pytest.raises(RankError) as caught:
        trainer.fit(module, data)
    assert not caught.value.gone
    return str(caught.value), rows.rounds


# What happens on rank 1 only, in round ROUND, after the aggregation of the clients; which part differs then.


def weights(loop):
    loop.server.weights[5] += 1e-7


def union(loop):
    loop.server.union[-1] = -loop.server.union[-1]


def mask(loop):
    changed = loop.server.mask.clone()
    changed[:2] = ~changed[:2]
    loop.server.mask = changed


def swapped(loop):
    mask = loop.tier_masks[0] = loop.tier_masks[0].clone()
    on, off = mask.nonzero()[0], (~mask).nonzero()[0]
    mask[on], mask[off] = False, True


def average(loop):
    loop.server.round_average[0] += 1


def momentum(loop):
    loop.server_optimizer.moments["velocity"][3] += 1


def remembered(loop):
    client = next(client for client in range(8) if client in loop.ledger.link.masks)
    loop.ledger.link.masks.put(client, ~loop.ledger.link.masks.get(client))


def costs(loop):
    loop.ledger._totals["flops"] += 1


CHANGES = {
    weights: "server (weights)",
    union: "server (union)",
    mask: "server (mask)",
    swapped: "tier masks (0)",
    average: "server (round_average)",
    momentum: "server_optimizer (velocity)",
    remembered: "ledger (client masks)",
    costs: "ledger (totals)",
}


def at_the_end_of_aggregation(change, patch):
    """Call ``change`` before the costs of round ROUND are added, which is after all hooks of the server."""
    add_round, loops = CostLedger.add_round, []
    init = FederatedLoop.__init__

    def remember(self, **parts):
        init(self, **parts)
        loops.append(self)

    def changing(self, *arguments):
        row = add_round(self, *arguments)
        if loops[-1].round == ROUND - 1 and loops[-1].ranks.rank == 1:
            change(loops[-1])
        return row

    patch.setattr(FederatedLoop, "__init__", remember)
    patch.setattr(CostLedger, "add_round", changing)


def test_each_part_is_compared_in_the_round_that_changes_it(unaware, tiny_data, run_ranks, tmp_path, monkeypatch):
    budget = SparsityBudget([Tier(0.1, 0.5), Tier(0.3, 0.5)])

    def run(rank):
        outcomes = []
        for change in CHANGES:
            with pytest.MonkeyPatch.context() as patch:
                at_the_end_of_aggregation(change, patch)
                extra = {"server_optimizer": FedAvgM(0.5), "round_average": RoundAverage(), "budget": budget}
                outcomes.append(outcome(unaware(), tiny_data, tmp_path / change.__name__, **extra))
        return outcomes

    first, second = run_ranks(2, run)
    assert first == second
    for (change, part), (message, rounds) in zip(CHANGES.items(), first, strict=True):
        assert message.startswith(f"rank 1: its {part} differs from rank 0's after round {ROUND}; "), change
        assert rounds == list(range(1, ROUND))
        _, saved, _ = CheckpointFolder(tmp_path / change.__name__).newest()
        assert saved["flash_pl"]["round"] == ROUND - 1


class Draws(PDST):
    """Its vote draws without a seed."""

    def on_aggregate(self, server, updates, round):
        server.mask = server.mask.clone()
        places = random.sample(range(len(server.mask)), 9)
        server.mask[places] = ~server.mask[places]
        server.prune_()


class OrderOfASet(PDST):
    """Remembers something that depends on the order of a set of strings, which Python draws for each process."""

    order: tuple = ()

    def on_aggregate(self, server, updates, round):
        self.order = list({"a", "b", "c", "d"}) if round == ROUND - 1 else []
        if round == ROUND - 1 and torch.distributed.get_rank():
            self.order.reverse()  # the ranks of a test are forks, which have the same order
        super().on_aggregate(server, updates, round)

    def state_dict(self):
        return {"order": self.order}

    def load_state_dict(self, state):
        self.order = state["order"]


class Address(PDST):
    """Remembers what no other process has, and saves nothing of it. What it saves has no order."""

    def on_aggregate(self, server, updates, round):
        self.address, self.started = id(server), time.perf_counter()
        super().on_aggregate(server, updates, round)

    def state_dict(self):
        keys = ["a", "b", "c"]
        random.shuffle(keys)
        return {"seen": set(keys), "values": dict.fromkeys(keys, 1.5), "lock": FedAvg()}


class OnRank1:
    """A component whose state on rank 1 is another one from round ROUND on."""

    calls = 0

    def state_dict(self):
        return {"calls": max(0, self.calls - ROUND + 1) * torch.distributed.get_rank()}


class Voter(OnRank1, MagnitudeVote):
    def __call__(self, *arguments):
        self.calls += 1
        return super().__call__(*arguments)


class Sampler(OnRank1, UniformSampler):
    def __call__(self, *arguments):
        self.calls += 1
        return super().__call__(*arguments)


class Aggregator(OnRank1, FedAvg):
    def mean(self):
        self.calls += 1
        return super().mean()


def test_the_state_of_every_component_is_compared(unaware, tiny_data, run_ranks):
    def run(rank):
        random.seed(rank)
        draws, _ = outcome(unaware(), tiny_data, None, Draws())
        order = outcome(unaware(), tiny_data, None, OrderOfASet())
        voter = outcome(unaware(), tiny_data, None, NST(voter=Voter()))
        sampler = outcome(unaware(), tiny_data, None, sampler=Sampler())
        aggregator = outcome(unaware(), tiny_data, None, aggregator=Aggregator())
        return draws, order, voter, sampler, aggregator

    first, second = run_ranks(2, run)
    assert first == second
    draws, *others = first
    assert re.match(r"rank 1: its server \(.*mask\) and tier masks \(0\) differ from rank 0's after round 1; ", draws)
    assert "server.generator" in draws
    parts = ["scheduler (order)", "voter (calls)", "sampler (calls)", "aggregator (calls)"]
    for part, (message, rounds) in zip(parts, others, strict=True):
        assert message.startswith(f"rank 1: its {part} differs from rank 0's after round {ROUND}; ")
        assert rounds == list(range(1, ROUND))


def test_all_ranks_end_with_exit_code_3_and_one_line(run_ranks, tmp_path, capfd):
    arguments = ["fit", "pdst", f"scheduler={__name__}.Draws", "data=synthetic", "data.samples=60", "clients=4"]
    arguments += ["cohort=2", "rounds=2", "trainer.accelerator=cpu", "trainer.progress=false", "logger=false"]

    def run(rank):
        random.seed(rank)
        return main([*arguments, f"run_dir={tmp_path}"])

    assert run_ranks(2, run) == [3, 3]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert re.match(
        r"flash-pl: error: rank 1: its server \(.*mask\) and tier masks \(0\) differ .* after round 1; ", line
    )
    assert CheckpointFolder(tmp_path / "checkpoints").newest()[1]["flash_pl"]["round"] == 0
    assert not (tmp_path / "metrics.csv").exists()


def test_what_a_scheduler_does_not_save_may_differ(unaware, tiny_data, run_ranks):
    def run(rank):
        random.seed(rank)
        torch.manual_seed(0)
        trainer = FederatedTrainer(Address(), density=0.3, rounds=2, cohort=4, accelerator="cpu")
        return trainer.fit(unaware(), tiny_data).round

    assert run_ranks(2, run) == [2, 2]


class Change(Callback):
    """A callback that changes the model on one rank, which it must not."""

    def __init__(self, rank):
        self.rank = rank

    def on_round_end(self, loop, row):
        if loop.round == ROUND and loop.ranks.rank == self.rank:
            loop.server.weights[0] += 1  # the next aggregation replaces it


def test_the_rank_that_differs_from_the_others_is_named_by_all(unaware, tiny_data, run_ranks):
    def run(rank):
        return outcome(unaware(), tiny_data, None, None, Change(0))

    outcomes = run_ranks(3, run)
    message, rounds = outcomes[0]
    assert outcomes == [(message, rounds)] * 3 and rounds == list(range(1, ROUND + 1))
    assert message.startswith(
        f"rank 0: its server (weights) differs from rank 1's with the clients of round {ROUND + 1}"
    )


def test_the_first_mask_is_compared_before_it_is_saved(unaware, tiny_data, run_ranks, tmp_path):
    class FirstMask(JMWST):
        def start(self, server, measured, generator):
            super().start(server, measured + random.random(), generator)
            server.weights[0] += random.random()

    def run(rank):
        random.seed(rank)
        scheduler = FirstMask(sensitivity=Sensitivity(init_fraction=0.5, epochs=1))
        return outcome(unaware(), tiny_data, tmp_path, scheduler)

    first, second = run_ranks(2, run)
    assert first == second and "server (weights" in first[0] and "after the first mask" in first[0]
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_is_compared_before_it_trains(unaware, tiny_data, run_ranks, tmp_path):
    class Forgets(FedRTS):
        def load_state_dict(self, state):
            super().load_state_dict(state)
            if torch.distributed.is_initialized() and torch.distributed.get_rank():
                self.posteriors.counts[0, 0] += 1

    settings = {"density": 0.3, "cohort": 4, "accelerator": "cpu"}

    def run(rank):
        resumed = FederatedTrainer(Forgets(), rounds=3, timeout=30, **settings)
        with pytest.raises(RankError) as caught:
            resumed.fit(unaware(), tiny_data, ckpt_path=tmp_path / "last.ckpt")
        return str(caught.value)

    FederatedTrainer(Forgets(), rounds=1, callbacks=[Checkpoint(tmp_path)], **settings).fit(unaware(), tiny_data)
    first, second = run_ranks(2, run)
    assert first == second and first.startswith(
        "rank 1: its scheduler (posteriors) differs from rank 0's after the che"
    )


def test_metrics_and_evaluation_do_not_matter(unaware, tiny_data, run_ranks, tmp_path):
    """Seconds differ from rank to rank, and only one of them evaluates a model."""

    def run(rank):
        evaluate = EvaluationSchedule(eval_clients_every=1)
        settings = {"density": 0.3, "rounds": 2, "cohort": 3, "accelerator": "cpu", "evaluate": evaluate}
        return FederatedTrainer(NST(), callbacks=[MetricsCSV(tmp_path)], **settings).fit(unaware(), tiny_data).round

    assert run_ranks(3, run) == [2, 2, 2]
