"""A rank that fails, dies, hangs or is stopped ends the run on all ranks, with a message that names it."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from flash_pl import PDST, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.checkpoint import read_checkpoint
from flash_pl.errors import CallbackError, ClientError, Interrupted, RankError
from flash_pl.loops import FaultPolicy


def trainer(*callbacks, rounds=4, timeout=30, **settings):
    settings |= {"rounds": rounds, "timeout": timeout, "callbacks": callbacks}
    return FederatedTrainer(PDST(), density=0.3, cohort=4, accelerator="cpu", **settings)


class On(Callback):
    """Calls ``action(loop)`` on one rank at the end of one round."""

    def __init__(self, rank, round, action):
        self.rank, self.round, self.action = rank, round, action

    def on_round_end(self, loop, row):
        if loop.ranks.rank == self.rank and loop.round == self.round:
            self.action(loop)


def error_of(kind, run):
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        run()
    return str(caught.value), time.monotonic() - started


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies_ends_the_others_soon(victim, unaware, tiny_data, run_ranks):
    def run(rank):
        kill = On(victim, 1, lambda loop: os.kill(os.getpid(), signal.SIGKILL))
        return error_of(RankError, lambda: trainer(kill).fit(unaware(), tiny_data))

    results = run_ranks(2, run)
    assert results[victim] is None
    message, seconds = results[1 - victim]
    assert message.startswith(f"rank {victim}: it has ended") and seconds < 20


def test_a_rank_that_hangs_is_named_after_the_timeout(unaware, tiny_data, run_ranks):
    def run(rank):
        hang = On(1, 1, lambda loop: time.sleep(8))
        return error_of(RankError, lambda: trainer(hang, timeout=2).fit(unaware(), tiny_data))

    (message, seconds), _ = run_ranks(2, run)
    assert message == "rank 1: it has ended, or has not answered for 2 s" and seconds < 8


def test_of_several_ranks_the_lost_one_is_named(unaware, tiny_data, run_ranks):
    def run(rank):
        kill = On(2, 1, lambda loop: os.kill(os.getpid(), signal.SIGKILL))
        return error_of(RankError, lambda: trainer(kill).fit(unaware(), tiny_data))[0]

    first, second, third = run_ranks(3, run)
    assert first.startswith("rank 2: it has ended") and third is None
    assert second.startswith(
        ("rank 2: it has ended", "rank 0: it has ended")
    )  # rank 0 may have ended before rank 1 looks


def test_a_rank_that_dies_in_the_middle_of_a_meeting_is_named(unaware, tiny_data, run_ranks):
    def run(rank):
        run_trainer = trainer()  # keeps the process group
        ranks = run_trainer.launch()
        if rank == 1:
            dist.monitored_barrier(ranks.group)  # passes the check before the exchange, then dies
            os.kill(os.getpid(), signal.SIGKILL)
        return error_of(RankError, lambda: ranks.gather("here"))[0]

    assert run_ranks(2, run)[0].startswith("rank 1: it has ended")


def test_an_error_of_one_rank_ends_the_others_with_its_message(unaware, tiny_data, run_ranks):
    def fail(loop):
        raise OSError("its disk is full")

    def run(rank):
        return error_of(CallbackError if rank else RankError, lambda: trainer(On(1, 1, fail)).fit(unaware(), tiny_data))

    other, own = (message for message, _ in run_ranks(2, run))
    assert own.startswith("On.on_round_end: OSError: its disk is full (") and other == f"rank 1: {own}"


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(unaware, tiny_data, run_ranks, tmp_path):
    def run(rank):
        torch.manual_seed(0)
        stop = On(1, 2, lambda loop: os.kill(os.getpid(), signal.SIGTERM))
        stopped = trainer(stop, Checkpoint(tmp_path, every=0))
        message, _ = error_of(Interrupted, lambda: stopped.fit(unaware(), tiny_data))
        loop = trainer().fit(unaware(), tiny_data, ckpt_path=tmp_path / "last.ckpt")
        return message, loop.round, loop.server.weights.numpy().tobytes()

    results = run_ranks(2, run)
    assert read_checkpoint(tmp_path / "last.ckpt")["flash_pl"]["round"] == 2
    torch.manual_seed(0)
    uninterrupted = trainer().fit(unaware(), tiny_data)
    assert results == [("stopped by SIGTERM", 4, uninterrupted.server.weights.numpy().tobytes())] * 2


def test_a_client_that_fails_is_the_same_error_on_all_ranks(unaware, tiny_data, run_ranks):
    class Fragile(unaware):
        def training_step(self, batch, batch_idx):
            if self._client.context.client == 3:
                raise ValueError("cannot")
            return super().training_step(batch, batch_idx)

    def run(rank):
        return error_of(ClientError, lambda: trainer(rounds=9).fit(Fragile(), tiny_data))[0]

    first, second = run_ranks(2, run)
    assert first == second and first.startswith("client 3 in round ") and "ValueError: cannot" in first


def test_skipped_clients_leave_the_same_bits(unaware, tiny_data, run_ranks):
    class Fragile(unaware):
        def training_step(self, batch, batch_idx):
            if self._client.context.client in (2, 3, 5):
                raise ValueError("cannot")
            return super().training_step(batch, batch_idx)

    def run(rank):
        torch.manual_seed(0)
        loop = trainer(faults=FaultPolicy("skip", min_clients=2)).fit(Fragile(), tiny_data)
        return loop.failed, loop.server.weights.numpy().tobytes()

    alone = run(0)
    assert alone[0] > 0 and run_ranks(2, run) == [alone, alone]
