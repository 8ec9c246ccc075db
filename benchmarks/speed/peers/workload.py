"""What every contender trains: clients, cohorts, batches, learning rate and network; and the bare loop.

Contenders that take any iterable get the batches of the bare loop (``batches``), which is faster than a DataLoader.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flash_pl.models import LeNet5, ResNet18

LR, BATCH = 0.1, 32
NETWORKS: dict[str, type[nn.Module]] = {"lenet5": LeNet5, "resnet18": ResNet18}
COHORTS = {"lenet5": 10, "resnet18": 4}
TASK = "PEERS_TASK"


@dataclass(frozen=True)
class Task:
    """What one process measures. It is an environment variable, because frameworks start processes of their own.

    Args:
        workload: name of the network.
        variant: of the contender.
        rounds: to train.
        bare: whether to run the bare loop around each round.
        data: folder of the workload's arrays.
        to: file of the report.
    """

    workload: str
    variant: str
    rounds: int
    bare: bool
    data: str
    to: str

    @classmethod
    def given(cls) -> "Task":
        return cls(**json.loads(os.environ[TASK]))


class Workload:
    """Clients and cohorts of a task."""

    def __init__(self, task: Task) -> None:
        self.name, self.per_round = task.workload, COHORTS[task.workload]
        self.folder = Path(task.data, task.workload)
        self.clients, self.samples = self.mapped("labels").shape
        order = np.random.default_rng(0)
        self.cohorts = [order.choice(self.clients, self.per_round, replace=False).tolist() for _ in range(task.rounds)]

    def mapped(self, name: str) -> Any:
        """An array in its file, such as the normalized images ``[clients, n, C, S, S]``.

        Nobody keeps it: pages of the file count as memory as long as they are mapped.
        """
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def network(self) -> nn.Module:
        """With the same initial weights in every process."""
        torch.manual_seed(0)
        return NETWORKS[self.name](in_channels=self.mapped("images").shape[2])

    def client(self, index: int) -> tuple[Tensor, Tensor]:
        """Images and labels of a client."""
        images, labels = (torch.from_numpy(self.mapped(name)[index].copy()) for name in ("images", "labels"))
        return images, labels

    def all_samples(self, images: str = "images", labels: str = "labels") -> tuple[Tensor, Tensor]:
        """Images ``[clients, n, C, S, S]`` and labels of all clients, or those with other names."""
        return torch.from_numpy(self.mapped(images).copy()), torch.from_numpy(self.mapped(labels).copy())

    def all_clients(self) -> list[tuple[Tensor, Tensor]]:
        return [self.client(index) for index in range(self.clients)]

    @torch.no_grad()
    def judge(self, network: nn.Module) -> dict[str, float]:
        """Accuracy on the test samples, and how far the weights have moved (Euclidean distance)."""
        pairs = zip(network.parameters(), self.network().parameters(), strict=True)
        moved = sum(float((new.detach() - old).square().sum()) for new, old in pairs) ** 0.5
        images, labels = self.all_samples("test_images", "test_labels")
        network.eval()
        guesses = torch.cat([network(part).argmax(1) for part in images.split(500)])
        return {"accuracy": float((guesses == labels).float().mean()), "moved": moved}


def batches(images: Tensor, labels: Tensor, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of one epoch."""
    for rows in torch.randperm(len(labels), generator=order).split(BATCH):
        yield images[rows], labels[rows]


def train(
    network: nn.Module, images: Tensor, labels: Tensor, order: torch.Generator, optimizer: torch.optim.Optimizer
) -> None:
    """One epoch of one client in plain PyTorch."""
    for inputs, targets in batches(images, labels, order):
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), targets).backward()
        optimizer.step()


class BareLoop:
    """FedAvg by hand: one network, one optimizer, the mean summed in place.

    Args:
        tuned: fused SGD and channels-last weights and images, which a user of PyTorch may choose.
    """

    def __init__(self, workload: Workload, clients: list[int], tuned: bool = False) -> None:
        state = torch.get_rng_state()
        format = torch.channels_last if tuned else torch.contiguous_format
        self.network = workload.network().to(memory_format=format)  # type: ignore[call-overload]
        torch.set_rng_state(state)
        self.data = {}
        for client in clients:
            images, labels = workload.client(client)
            self.data[client] = images.to(memory_format=format) if tuned else images, labels
        self.server = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=LR, fused=tuned)
        self.order = torch.Generator().manual_seed(1)

    def round(self, cohort: list[int]) -> None:
        total = {name: torch.zeros_like(value) for name, value in self.server.items() if value.is_floating_point()}
        for client in cohort:
            self.network.load_state_dict(self.server)
            train(self.network, *self.data[client], self.order, self.optimizer)
            trained = self.network.state_dict()
            for name, value in total.items():
                value.add_(trained[name], alpha=1 / len(cohort))
        self.server |= total
