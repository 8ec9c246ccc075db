"""How seconds and memory grow: with processes and threads, registered clients, and clients in a round.

    python benchmarks/scaling.py ranks      # 1 process with 1 and with 2 threads, 2 processes with 1 thread each
    python benchmarks/scaling.py clients    # 10 to 10,000 registered clients
    python benchmarks/scaling.py cohort     # 5 to 100 clients in a round
    python benchmarks/scaling.py threads    # a step of training with 1 and with 2 threads

Ranks: rounds of PDST on Fashion-MNIST, ten clients a round, on torch's kernels and on the sparse ones; the contenders
take turns. Clients: all have the same 96
synthetic images, so that the data do not grow; ten train a round. Cohort: the same, of 100 clients. Each number of
clients has a process of its own. Threads: random images in batches of 32, d = 0.05; the contenders take turns.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from networks import FORMATS, NETWORKS, Turn, bare_turns, client_turn, federated, medians
from study import rows

from flash_pl import JMWST, NST, PDST, Classifier, FederatedTrainer
from flash_pl.data import Batches
from flash_pl.loops import EvaluationSchedule
from flash_pl.models import MNISTNet
from flash_pl.schedulers import Sensitivity, SparseScheduler
from flash_pl.server import RoundRobinSampler

CONTENDERS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}
BACKENDS = {"dense": "dense", "auto": "sparse"}  # of the trainer, and the kernels that it takes for these networks
CLIENTS = (10, 100, 1000, 10_000)
COHORTS = (5, 10, 20, 50, 100)
THREADS = (1, 2)
METHODS: dict[str, Callable[[Sensitivity], SparseScheduler]] = {
    "pdst": lambda _: PDST(),
    "jmwst": lambda stage_1: JMWST(sensitivity=stage_1),
    "nst": lambda _: NST(),
}


class Alike:
    """Any number of clients that all have the same 96 images."""

    def __init__(self, clients: int) -> None:
        self.clients, self.classes = clients, 10
        draws = torch.Generator().manual_seed(1)
        images, labels = torch.randn(96, 1, 28, 28, generator=draws), torch.randint(10, (96,), generator=draws)
        self.batches = Batches(images, labels, 32)
        self.client_sizes = [96] * clients

    def prepare_data(self) -> None: ...

    def setup(self, stage: str) -> None: ...

    def to_(self, device: torch.device) -> None: ...

    def client_batches(self, client: int) -> Batches:
        return self.batches

    def val_dataloader(self) -> Batches:
        return self.batches


def ranks(out: Path, rounds: int, repeats: int) -> None:
    """Median seconds of a round, and the median ratio to one process with one thread of the same turn and kernels."""
    turns = list(product(BACKENDS, CONTENDERS))
    seconds: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
    for repeat in range(repeats):
        for backend, name in turns[:: 1 if repeat % 2 else -1]:
            devices, threads = CONTENDERS[name]
            run = out / f"ranks-{backend}-{devices}-{threads}-{repeat}"
            shutil.rmtree(run, ignore_errors=True)
            arguments = ["data=fashion_mnist", f"rounds={rounds}", f"run_dir={run}", "trainer.accelerator=cpu"]
            arguments += [f"trainer.devices={devices}", f"trainer.threads={threads}", f"trainer.eval_every={rounds}"]
            command = [sys.executable, "-m", "flash_pl", "fit", "pdst", *arguments, f"trainer.backend={backend}"]
            subprocess.run(command, check=True, capture_output=True)
            # The first round warms up, the last one is evaluated.
            seconds[backend, name].append(statistics.median(float(row["seconds_train"]) for row in rows(run)[1:-1]))
    print("| kernels | contender | s a round | ratio |\n|---|---|---|---|")
    for (backend, name), found in seconds.items():
        base = seconds[backend, next(iter(CONTENDERS))]
        ratio = statistics.median(one / other for one, other in zip(found, base, strict=True))
        print(f"| {BACKENDS[backend]} | {name} | {statistics.median(found):.2f} | {ratio:.2f} |")


def clients() -> None:
    """A line per method and number of clients."""
    print("| method | clients | ms a round | process, MiB | masks of clients, MiB | by mask-bits, MiB |")
    print("|---|---|---|---|---|---|")
    for method in METHODS:
        for number in CLIENTS:
            found = apart(method, number, 10, enough(method, number))
            masks = f"{found['masks']:.1f} | {found['bits']:.1f}"
            print(f"| {method} | {number} | {found['ms']:.0f} | {found['peak']:.0f} | {masks} |", flush=True)


def enough(method: str, number: int) -> int:
    """Rounds of ten clients to time. For NST every client takes part, in turn."""
    return max(30, number // 10) if method == "nst" else 30


def cohort(rounds: int) -> None:
    """A line per method and number of clients in a round; rounds count from when all clients have had their first."""
    print("| method | clients in a round | ms a round | ms a client | process, MiB |\n|---|---|---|---|---|")
    for method in ("pdst", "jmwst"):
        for size in COHORTS:
            found = apart(method, 100, size, rounds, 100 // size)
            numbers = f"{found['ms']:.0f} | {found['ms'] / size:.1f} | {found['peak']:.0f}"
            print(f"| {method} | {size} | {numbers} |", flush=True)


def apart(method: str, number: int, cohort: int, rounds: int, warmup: int = 0) -> dict[str, float]:
    """What ``one`` finds in a process of its own."""
    settings = {"method": method, "number": number, "cohort": cohort, "rounds": rounds, "warmup": warmup}
    arguments = [f"--{key}={value}" for key, value in settings.items()]
    command = [sys.executable, __file__, "one", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one(method: str, number: int, cohort: int, rounds: int, warmup: int) -> dict[str, float]:
    """Median milliseconds of a round with ``cohort`` of ``number`` clients after ``warmup`` others, and in MiB the peak
    of the process and the masks of clients, as they are held and at one bit a weight."""
    torch.set_num_threads(1)
    seconds: list[float] = []

    class Clock:
        def on_round_end(self, loop: object, row: dict[str, float]) -> None:
            seconds.append(row["seconds"])

    trainer = FederatedTrainer(
        METHODS[method](Sensitivity(init_fraction=min(1.0, 4 / number), epochs=1)),
        density=0.05,
        rounds=warmup + rounds,
        cohort=cohort,
        sampler=RoundRobinSampler(),
        evaluate=EvaluationSchedule(every=10**9),
        accelerator="cpu",
        callbacks=[Clock()],
    )
    loop = trainer.fit(Classifier(MNISTNet(), classes=10), Alike(number))
    masks = loop.ledger.link.masks
    return {
        "ms": 1e3 * statistics.median(seconds[warmup:]),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "masks": masks.nbytes / 2**20,
        "bits": len(masks) * loop.server.layout.maskable / 8 / 2**20,
    }


def threads(repeats: int) -> None:
    """A line per network and contender."""
    print("| network | contender | 1 thread, ms a step | 2 threads, ms a step | ratio |\n|---|---|---|---|---|")
    for name in ("MNISTNet", "ResNet18"):
        network = NETWORKS[name]
        data = network.images()
        turns = bare_turns(network, data.client_batches(0))
        for contender, backend in {"dense kernels": "dense", "sparse kernels": "auto"}.items():
            turns[contender] = client_turn(federated(network, data, 0.05, backend))
        times = medians({f"{key} {n}": on(n, turn) for key, turn in turns.items() for n in THREADS}, repeats)
        found = {key: [times[f"{key} {n}"] / network.batches for n in THREADS] for key in turns}
        found = {"bare dense loop": [min(pair) for pair in zip(*map(found.pop, FORMATS), strict=True)]} | found
        for contender, (first, second) in found.items():
            print(f"| {name} | {contender} | {first:.2f} | {second:.2f} | {second / first:.2f} |", flush=True)


def on(threads: int, turn: Turn) -> Turn:
    """The turn with so many threads."""

    def run() -> None:
        torch.set_num_threads(threads)
        turn()

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["ranks", "clients", "cohort", "threads", "one"])
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--rounds", type=int, help="default: 12; for one, as many as clients takes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--method", default="pdst")
    parser.add_argument("--number", type=int, default=10)
    parser.add_argument("--cohort", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.task == "ranks":
        ranks(chosen.out, chosen.rounds or 12, chosen.repeats)
    elif chosen.task == "clients":
        clients()
    elif chosen.task == "cohort":
        cohort(chosen.rounds or 12)
    elif chosen.task == "threads":
        threads(chosen.repeats)
    else:
        rounds = chosen.rounds or enough(chosen.method, chosen.number)
        print(json.dumps(one(chosen.method, chosen.number, chosen.cohort, rounds, chosen.warmup)))
