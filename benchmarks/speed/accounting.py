"""Time that counting takes: rounds that count bytes, FLOPs and simulated seconds against rounds that count nothing.

    python benchmarks/speed/accounting.py --repeats 15

Two federations of MNISTNet on Fashion-MNIST train the same cohorts in turn within one process, on one thread, without
evaluation. One counts costs as every run does, with a fleet; the other one only hands models over. The script prints
medians, and the median ratio of pairs.
"""

import argparse
import statistics

import torch
from limit import seconds
from networks import NO_EVALUATION, started
from torch import Tensor

from flash_pl import Classifier, Dense, FederatedTrainer
from flash_pl.config.shipped import fragment
from flash_pl.costs import Device, Fleet, Link, Traffic, WireFormat
from flash_pl.data import FashionMNIST
from flash_pl.loops import FederatedLoop
from flash_pl.models import MNISTNet
from flash_pl.schedulers import JMWST, NST, PDST, SparseScheduler
from flash_pl.server import ClientUpdate

SCHEDULERS = {"dense": Dense, "pdst": PDST, "nst": NST, "jmwst": JMWST}


class FreeLink(Link):
    """Hands models over and counts nothing. It keeps the masks of the clients, because NST needs them."""

    def down(self, weights: Tensor, mask: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor, Traffic]:
        return weights, mask, Traffic()

    def up(self, update: ClientUpdate, weights: Tensor, received: Tensor) -> tuple[ClientUpdate, Tensor, Traffic]:
        return update, weights, Traffic()


def federated(
    scheduler: SparseScheduler, data: FashionMNIST, verify: bool, counted: bool, backend: str
) -> FederatedLoop:
    """A federated loop that is ready for its first round."""
    devices = [Device(**device) for device in fragment("fleet", "mixed", "fleet")["init_args"]["devices"]]
    torch.manual_seed(1)
    trainer = FederatedTrainer(
        scheduler,
        density=0.05,
        cohort=10,
        seed=1,
        accelerator="cpu",
        backend=backend,
        wire=WireFormat(verify=verify),
        fleet=Fleet(devices) if counted else None,
        **NO_EVALUATION,
    )
    loop = trainer.loop(Classifier(MNISTNet(), classes=10), data)
    if not counted:
        loop.ledger.link, loop.ledger.flops = FreeLink(loop.server.layout), None
    return started(loop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--verify", nargs="+", default=["off", "on"])
    arguments = parser.parse_args()
    repeats = arguments.repeats
    torch.set_num_threads(1)
    data = FashionMNIST(clients=100, seed=1)
    print(
        "| method | verify | s a round, nothing counted | s, counted | median ratio of pairs |\n|---|---|---|---|---|"
    )
    for name, scheduler in SCHEDULERS.items():
        for verify in arguments.verify:
            loops = [
                federated(scheduler(), data, verify == "on", counted, arguments.backend) for counted in (False, True)
            ]
            times: list[list[float]] = [[], []]
            for repeat in range(repeats + 1):
                for index in (0, 1) if repeat % 2 else (1, 0):  # the loops alternate in going first
                    elapsed = seconds(loops[index].train_round)
                    if repeat:  # the first pair warms up
                        times[index].append(elapsed)
            assert torch.equal(loops[0].server.weights, loops[1].server.weights)
            ratio = statistics.median(counted / free for free, counted in zip(*times, strict=True))
            free, counted = map(statistics.median, times)
            print(f"| {name} | {verify} | {free:.3f} | {counted:.3f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
