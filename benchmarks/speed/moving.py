"""What a client whose mask moves costs beside one whose mask stays, in models of 6.5 and 11 million weights.

    python benchmarks/speed/moving.py                        # on a GPU if there is one; a minute
    PYTHONPATH=OTHER python benchmarks/speed/moving.py       # the package of another checkout, for before and after

One row per network. A client is everything from the mask that it gets to the mask that is remembered: download, local
training, upload, sum. It has ``STEPS`` batches of one image, so that most of the time is not that of its steps. JMWST
moves the mask after half of them; PDST is the same client without a move. The two take turns.

- host ms: time of this thread, the median of ``REPEATS`` clients. On a CPU that includes what a GPU would compute, such
  as top-k and sums.
- draws ms: the part of it in which the move draws its random places, which the host does on every device.
- wall ms: time until the device is idle too.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from networks import NETWORKS, federated

from flash_pl.data import Synthetic
from flash_pl.loops import FederatedLoop
from flash_pl.schedulers import JMWST, PDST, SparseScheduler
from flash_pl.sparsity.permutation import first_of_permutation

STEPS, REPEATS, DENSITY = 10, 15, 0.05  # as many samples as classes


class Moving(JMWST):
    """JMWST without stage 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first_stage = None


def make_loop(name: str, accelerator: str, scheduler: Callable[[], SparseScheduler]) -> FederatedLoop:
    network = NETWORKS[name]
    torch.manual_seed(0)
    data = Synthetic(STEPS, shape=network.shape, test_samples=10, clients=1, batch_size=1, seed=1)
    return federated(network, data, DENSITY, "dense", 1, accelerator, scheduler)


def client(loop: FederatedLoop) -> Callable[[], None]:
    """A round of the only client, again and again: it has a mask already, and so has the server."""
    (participant,) = loop.plan.sample_cohort(0)

    def turn() -> None:
        loop.aggregator.reset(loop.server.weights, loop.server.layout.maskable, [participant.weight])
        loop.ledger.link.remember([loop.train_client(participant)])

    return turn


def draws(loop: FederatedLoop) -> Callable[[], None]:
    """The random places of a move that grows an eighth of the active weights, as the move of half a round does."""
    free = (loop.server.layout.sizes - loop.server.layout.counts(loop.server.mask)).tolist()
    grown = (loop.server.layout.counts(loop.server.mask) // 8).tolist()

    def turn() -> None:
        generator = torch.Generator().manual_seed(1)
        for count, k in zip(free, grown, strict=True):
            first_of_permutation(count + k, k, generator)

    return turn


def timed(turn: Callable[[], None]) -> tuple[float, float]:
    """Milliseconds of the thread, and until the device is idle."""
    thread, wall = time.thread_time(), time.perf_counter()
    turn()
    thread = time.thread_time() - thread
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * thread, 1e3 * (time.perf_counter() - wall)


def measure(name: str, accelerator: str) -> str:
    loops = {scheduler: make_loop(name, accelerator, scheduler) for scheduler in (PDST, Moving)}
    turns: dict[Any, Callable[[], None]] = {scheduler: client(loop) for scheduler, loop in loops.items()}
    turns[draws] = draws(loops[Moving])
    times: dict[Any, list[tuple[float, float]]] = {key: [] for key in turns}
    for repeat in range(REPEATS + 2):  # the first two warm up
        for key, turn in turns.items():
            pair = timed(turn)
            if repeat > 1:
                times[key].append(pair)
    host, wall = ({key: statistics.median(column) for key, column in each.items()} for each in columns(times))
    weights = loops[PDST].server.layout.maskable / 1e6
    numbers = [host[PDST], host[Moving], host[Moving] - host[PDST], host[draws], wall[PDST], wall[Moving]]
    return f"| {name} | {weights:.1f} | {' | '.join(f'{number:.1f}' for number in numbers)} |"


def columns(times: dict[Any, list[tuple[float, float]]]) -> list[dict[Any, list[float]]]:
    return [{key: [pair[column] for pair in pairs] for key, pairs in times.items()} for column in (0, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["LeafCNN", "ResNet18"])
    parser.add_argument("--accelerator", default="auto")
    arguments = parser.parse_args()
    print("| network | million weights | host ms, PDST | JMWST | difference | draws ms | wall ms, PDST | JMWST |")
    print(f"|{8 * '---|'}")
    for name in arguments.networks:
        print(measure(name, arguments.accelerator), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
