"""A run that is interrupted anywhere goes on to the same end."""

import csv
import os
import signal

import pytest
import torch

from flash_pl import JMWST, PDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint, MetricsCSV
from flash_pl.checkpoint import read_checkpoint
from flash_pl.errors import ClientError, Interrupted
from flash_pl.loops import EvaluationSchedule, FaultPolicy
from flash_pl.schedulers import STEAD, Sensitivity
from flash_pl.server import FedAvgM, RoundAverage
from flash_pl.sparsity import AsDrawn, FirstMask


class StopIn:
    """A module that asks its own process to stop, once, in a given purpose."""

    asked = False


def stopping(base, purpose, client):
    class Module(base):
        def training_step(self, batch, batch_idx):
            facts = self._client.context
            if not StopIn.asked and facts.purpose == purpose and facts.client == client:
                StopIn.asked = True
                os.kill(os.getpid(), signal.SIGTERM)
            return super().training_step(batch, batch_idx)

    return Module


def trainer(folder):
    method = JMWST(sensitivity=Sensitivity(init_fraction=1.0, epochs=1))
    return FederatedTrainer(
        method,
        density=0.3,
        rounds=4,
        cohort=4,
        accelerator="cpu",
        evaluate=EvaluationSchedule(eval_clients_every=2, finetune_epochs=1),
        callbacks=[MetricsCSV(folder), Checkpoint(folder, every=0)],
    )


def table(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("purpose", ["sensitivity", "round", "finetune"])
@pytest.mark.parametrize("client", [0, 5])
def test_the_end_is_that_of_a_run_left_alone(purpose, client, unaware, tiny_data, tmp_path):
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    torch.manual_seed(0)
    whole = trainer(tmp_path / "whole").fit(unaware(), tiny_data)
    StopIn.asked = False
    torch.manual_seed(0)
    with pytest.raises(Interrupted):
        trainer(tmp_path / "parts").fit(stopping(unaware, purpose, client)(), tiny_data)
    saved = tmp_path / "parts" / "last.ckpt"
    if purpose == "sensitivity":
        with pytest.raises(ConfigError, match="before stage 1 made the first mask"):
            trainer(tmp_path / "parts").validate(unaware(), tiny_data, ckpt_path=saved)
    loop = trainer(tmp_path / "parts").fit(unaware(), tiny_data, ckpt_path=saved)
    assert torch.equal(loop.server.weights, whole.server.weights) and torch.equal(loop.server.mask, whole.server.mask)
    assert table(tmp_path / "parts") == table(tmp_path / "whole")


def test_a_state_that_was_read_once_can_be_gone_on_from_twice(unaware, tiny_data, tmp_path):
    def trainer(rounds, callbacks=()):
        server = {"server_optimizer": FedAvgM(0.5), "round_average": RoundAverage()}
        return FederatedTrainer(
            STEAD(every=1), density=0.3, rounds=rounds, cohort=4, accelerator="cpu", callbacks=callbacks, **server
        )

    trainer(2, [Checkpoint(tmp_path)]).fit(unaware(), tiny_data)
    state, ends = read_checkpoint(tmp_path / "last.ckpt"), []
    for _ in range(2):
        run = trainer(4)
        loop = run.loop(unaware(), tiny_data)
        run.resume(loop, state)
        run.run(loop)
        ends.append((loop.server, loop.server.deployed.clone()))
    (first, deployed), (second, _) = ends
    assert torch.equal(first.weights, second.weights) and torch.equal(first.deployed, second.deployed)
    assert torch.equal(first.deployed, deployed) and first.deployed.data_ptr() != second.deployed.data_ptr()


@pytest.mark.slow
def test_a_failure_of_a_round_that_starts_again_counts_once(unaware, tiny_data, tmp_path):
    def fit(module, folder, **how):
        policy, callback = FaultPolicy("skip"), Checkpoint(tmp_path / folder, every=0)
        run = FederatedTrainer(
            PDST(), density=0.3, rounds=2, cohort=8, accelerator="cpu", faults=policy, callbacks=[callback]
        )
        return run.fit(module, tiny_data, **how)

    def failing(base):
        class Module(base):
            def training_step(self, batch, batch_idx):
                assert self._client.context.client != 0
                return super().training_step(batch, batch_idx)

        return Module

    assert fit(failing(unaware)(), "whole").failed == 2
    for client in range(1, 8):  # before client 0 and after it
        StopIn.asked = False
        with pytest.raises(Interrupted):
            fit(failing(stopping(unaware, "round", client))(), str(client))
        assert fit(failing(unaware)(), str(client), ckpt_path="last").failed == 2


def test_failures_of_an_attempt_count_once_if_a_later_attempt_is_interrupted(unaware, tiny_data, tmp_path):
    """Client 0 always fails, so a round of all clients is tried again; the second try is interrupted."""
    tries = []

    class Module(unaware):
        def training_step(self, batch, batch_idx):
            assert self._client.context.client != 0
            return super().training_step(batch, batch_idx)

        def on_fit_start(self):
            if not self.trainer.sanity_checking:
                tries.append(self._client.context.client)
                if len(tries) == stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)

    def fit(**how):
        callback = Checkpoint(tmp_path / "run", every=0)
        policy = FaultPolicy("skip", min_clients=8, round_attempts=3)
        scheduler = PDST(FirstMask(initialize=AsDrawn()))
        settings = {"rounds": 1, "cohort": 8, "accelerator": "cpu", "faults": policy, "callbacks": [callback]}
        return FederatedTrainer(scheduler, density=0.3, **settings).fit(Module(), tiny_data, **how)

    stop_at = 12
    with pytest.raises(Interrupted):
        fit()
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["flash_pl"]["failed"] == 0
    tries, stop_at = [], 0
    with pytest.raises(ClientError, match="min_clients is 8, after 3 attempts"):
        fit(ckpt_path="last")
    assert len(tries) == 3 * 8


def test_a_checkpoint_knows_what_callbacks_after_it_have_decided(unaware, tiny_data, tmp_path):
    class StopAfterTwo(Callback):
        def on_round_end(self, loop, row):
            loop.should_stop = row["round"] == 2

    def trainer():
        watchers = [Checkpoint(tmp_path), StopAfterTwo()]
        return FederatedTrainer(PDST(), density=0.3, rounds=4, cohort=2, accelerator="cpu", callbacks=watchers)

    assert trainer().fit(unaware(), tiny_data).round == 2
    assert trainer().fit(unaware(), tiny_data, ckpt_path="last").round == 2
