"""How far dense training is from the limit: a bare PyTorch loop over the same in-memory batches, one thread.

    python benchmarks/limit.py --repeats 7

Both contenders train the same ten clients of Fashion-MNIST with the same model, batches and optimiser, in turn within
one process; medians and their ratio are printed. A second figure is what lies between two clients: sending the weights,
the mask, a fresh optimiser, meters and the running average.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

from flash_pl import Classifier, Dense, FederatedTrainer
from flash_pl.data import FashionMNIST
from flash_pl.loops import FederatedLoop, Member
from flash_pl.models import LeNet5, MNISTNet
from flash_pl.schedulers import PDST, SparseScheduler
from flash_pl.seeding import generator

COHORT = 10


def bare_round(model: nn.Module, data: FashionMNIST, cohort: list[int]) -> float:
    """Seconds of a round of FedAvg written by hand."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    total = {name: torch.zeros_like(value) for name, value in start.items()}
    order = generator(0, "bare")
    model.train()
    begun = time.perf_counter()
    for client in cohort:
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for images, labels in data.client_batches(client).shuffled(order):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, value in model.state_dict().items():
            total[name] += value / len(cohort)
    model.load_state_dict(total)
    return time.perf_counter() - begun


def federated(model: nn.Module, data: FashionMNIST, scheduler: SparseScheduler) -> FederatedLoop:
    trainer = FederatedTrainer(scheduler, density=0.05, rounds=10**6, cohort=COHORT, seed=1, accelerator="cpu")
    loop = trainer.loop(Classifier(model, classes=10), data)
    loop.find_first_mask()
    loop.client.backend.__enter__()  # as FederatedTrainer.run does
    return loop


def our_round(loop: FederatedLoop) -> float:
    """Seconds of a round of the federated loop, without evaluation."""
    begun = time.perf_counter()
    loop.on_advance_start()
    loop.advance()
    loop.pending = False  # on_advance_end, which would evaluate the round, is left out
    return time.perf_counter() - begun


def between_clients(loop: FederatedLoop, repeats: int) -> float:
    """Milliseconds of a client that has no batches: all the work that is not training."""

    class Nothing:
        samples = 1

        def __len__(self) -> int:
            return 1

        def shuffled(self, order: torch.Generator) -> list[None]:
            return []

    server, times = loop.server, []
    loop.parts.aggregator.reset(server.weights, server.layout.maskable, [1])
    for client in range(repeats):
        begun = time.perf_counter()
        context = loop.plan.context(Member(client, 0, 1), 1, 0)
        loop.client.receive(server.weights, loop.scheduler.client_mask(server.mask.clone(), None, context))
        loop.parts.aggregator.update(loop.parts.local.run(loop.client, loop.scheduler, Nothing(), context))  # type: ignore[arg-type]
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    data = FashionMNIST(clients=100, seed=1)
    for network in (MNISTNet, LeNet5):
        loop = federated(network(), data, Dense())
        model = network().to(memory_format=torch.channels_last)
        ours, bare = [], []
        for repeat in range(repeats + 1):
            cohort = [member.client for member in loop.plan.draw(loop.round)]
            if repeat % 2:  # who goes first alternates
                first, second = our_round(loop), bare_round(model, data, cohort)
            else:
                second, first = bare_round(model, data, cohort), our_round(loop)
            loop.round += 1
            if repeat:  # the first pair warms up
                ours.append(first)
                bare.append(second)
        a, b = statistics.median(ours), statistics.median(bare)
        ratio = statistics.median(x / y for x, y in zip(ours, bare, strict=True))
        print(f"{network.__name__}: {a:.3f} s a round, bare loop {b:.3f} s, median ratio of pairs {ratio:.3f}")
        sparse = federated(network(), data, PDST())
        print(f"{network.__name__}: {between_clients(sparse, 200):.2f} ms between two clients under a new mask")


if __name__ == "__main__":
    main()
