"""Time of dense rounds against a bare PyTorch loop over the same in-memory batches: one thread.

    python benchmarks/speed/limit.py --repeats 7

Both contenders train the same ten clients of Fashion-MNIST with the same model, batches and optimizer, and take turns
within one process. The script prints medians and their ratio. It also prints the time between two clients: sending
weights and mask, a new optimizer, meters, and the running average.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from networks import NO_EVALUATION, started, train_cohort
from torch import nn

from flash_pl import Classifier, Dense, FederatedTrainer
from flash_pl.data import FashionMNIST
from flash_pl.loops import FederatedLoop, Participant
from flash_pl.models import LeNet5, MNISTNet
from flash_pl.schedulers import PDST, SparseScheduler

COHORT, LR = 10, 0.1


def federated(model: nn.Module, data: FashionMNIST, scheduler: SparseScheduler) -> FederatedLoop:
    trainer = FederatedTrainer(scheduler, density=0.05, cohort=COHORT, seed=1, accelerator="cpu", **NO_EVALUATION)
    return started(trainer.loop(Classifier(model, classes=10, lr=LR), data))


def seconds(round: Callable[[], None]) -> float:
    begun = time.perf_counter()
    round()
    return time.perf_counter() - begun


def between_clients(loop: FederatedLoop, repeats: int) -> float:
    """Median milliseconds of a client without batches: all work that is not training."""

    class NoBatches:
        samples = 1

        def __len__(self) -> int:
            return 1

        def shuffled(self, order: torch.Generator) -> list[None]:
            return []

    server, times = loop.server, []
    loop.aggregator.reset(server.weights, server.layout.maskable, [1])
    for client in range(repeats):
        begun = time.perf_counter()
        context = loop.plan.context(Participant(client, 0, 1, 1), 1, 0)
        loop.client.receive(server.weights, loop.scheduler.client_mask(server.mask.clone(), None, context))
        update = loop.local.run(loop.client, loop.scheduler, NoBatches(), context)  # type: ignore[arg-type]
        loop.aggregator.add(update, loop.client.arena, offered=loop.client.mask)
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
        model = network().to(memory_format=torch.channels_last).train()
        ours, bare = [], []
        for repeat in range(repeats + 1):
            our_round, bare_round = loop.train_round, partial(train_cohort, model, loop.plan, data, repeat, LR)
            if repeat % 2:  # the contenders alternate in going first
                first, second = seconds(our_round), seconds(bare_round)
            else:
                second, first = seconds(bare_round), seconds(our_round)
            if repeat:  # the first pair warms up
                ours.append(first)
                bare.append(second)
        medians = f"{statistics.median(ours):.3f} s a round, bare loop {statistics.median(bare):.3f} s"
        ratio = statistics.median(pair[0] / pair[1] for pair in zip(ours, bare, strict=True))
        print(f"{network.__name__}: {medians}, median ratio of pairs {ratio:.3f}")
        sparse = federated(network(), data, PDST())
        print(f"{network.__name__}: {between_clients(sparse, 200):.2f} ms between two clients under a new mask")


if __name__ == "__main__":
    main()
