"""FLSim: ``SyncTrainer`` with FedAvg. Its last release, 0.1.0, is of 2022.

It cannot be imported by Python 3.11 and later as it is: its dataclasses have defaults that cannot be hashed. Here its
dataclasses get a hash, which changes nothing else.
"""

# ruff: noqa: E402 - the names are patched before the package is imported

import dataclasses
import logging
import math
from collections.abc import Iterator
from typing import Any

plain_dataclass = dataclasses.dataclass


def dataclass_with_hash(cls: Any = None, /, **keywords: Any) -> Any:
    def make(decorated: Any) -> Any:
        hashed = {"unsafe_hash": True} if decorated.__module__.startswith("flsim") else {}
        return plain_dataclass(decorated, **hashed | keywords)

    return make if cls is None else make(cls)


dataclasses.dataclass = dataclass_with_hash  # type: ignore[assignment]

import torch
from flsim.data.data_provider import IFLDataProvider, IFLUserData
from flsim.interfaces.metrics_reporter import Channel
from flsim.trainers.sync_trainer import SyncTrainer, SyncTrainerConfig  # noqa: F401  # registers the configuration
from flsim.utils.config_utils import fl_config_from_json
from flsim.utils.example_utils import FLModel, MetricsReporter
from hydra.utils import instantiate
from rounds import Rounds
from torch import Tensor
from workload import BATCH, LR, Task, Workload, batches


class User(IFLUserData):
    def __init__(self, images: Tensor, labels: Tensor, order: torch.Generator) -> None:
        self.tensors, self.order = (images, labels), order

    def num_train_examples(self) -> int:
        return len(self.tensors[1])

    def num_train_batches(self) -> int:
        return -(-self.num_train_examples() // BATCH)

    def train_data(self) -> Iterator[dict[str, Tensor]]:
        for images, labels in batches(*self.tensors, self.order):
            yield {"features": images, "labels": labels}

    def num_eval_examples(self) -> int:
        return 0

    def num_eval_batches(self) -> int:
        return 0

    def eval_data(self) -> Iterator[dict[str, Tensor]]:
        return iter(())


class Provider(IFLDataProvider):
    def __init__(self, users: list[User]) -> None:
        self.users = users

    def train_user_ids(self) -> list[int]:
        return list(range(len(self.users)))

    def num_train_users(self) -> int:
        return len(self.users)

    def get_train_user(self, index: int) -> User:
        return self.users[index]

    def train_users(self) -> list[User]:
        return self.users

    def eval_users(self) -> list[User]:
        return []

    def test_users(self) -> list[User]:
        return []


def settings(task: Task, workload: Workload) -> dict[str, Any]:
    share = 1 / math.ceil(workload.clients / workload.per_round)  # of an epoch, in which every client has a turn
    server = {
        "_base_": "base_sync_server",
        "server_optimizer": {"_base_": "base_fed_avg"},
        "aggregation_type": "WEIGHTED_AVERAGE",
        "active_user_selector": {"_base_": "base_uniformly_random_active_user_selector"},
    }
    client = {
        "_base_": "base_client",
        "epochs": 1,
        "optimizer": {"_base_": "base_optimizer_sgd", "lr": LR, "momentum": 0},
        "lr_scheduler": {"_base_": "base_constant_lr_scheduler", "base_lr": LR},
    }
    trainer = {
        "_base_": "base_sync_trainer",
        "epochs": (task.rounds - 0.5) * share,  # it rounds up to whole rounds
        "do_eval": False,
        "eval_epoch_frequency": share,
        "always_keep_trained_model": True,
        "report_train_metrics": False,
        "users_per_round": workload.per_round,
        "server": server,
        "client": client,
    }
    return {"trainer": trainer}


def main() -> None:
    task = Task.given()
    logging.disable(logging.CRITICAL)
    workload = Workload(task)
    network, order = workload.network(), torch.Generator().manual_seed(1)
    trainer = instantiate(
        fl_config_from_json(settings(task, workload)).trainer, model=FLModel(network), cuda_enabled=False
    )
    rounds, train_round = Rounds(task, workload), trainer._train_one_round

    def timed(*arguments: Any, **keywords: Any) -> None:
        train_round(*arguments, **keywords)
        rounds.mark()

    trainer._train_one_round = timed
    rounds.mark()
    trainer.train(
        data_provider=Provider([User(*tensors, order) for tensors in workload.all_clients()]),
        metrics_reporter=MetricsReporter([Channel.STDOUT]),
        num_total_users=workload.clients,
        distributed_world_size=1,
    )
    rounds.report(trainer.global_model().fl_get_module(), "flsim")


if __name__ == "__main__":
    main()
