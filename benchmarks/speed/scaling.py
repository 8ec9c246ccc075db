"""Time and memory against processes, threads, registered clients and clients per round.

    python benchmarks/speed/scaling.py ranks      # 1 process with 1 and with 2 threads, 2 processes with 1 thread each
    python benchmarks/speed/scaling.py clients    # 10 to 10,000 registered clients
    python benchmarks/speed/scaling.py cohort     # 5 to 100 clients in a round
    python benchmarks/speed/scaling.py threads    # a training step with 1 and with 2 threads

- ranks: rounds of PDST on Fashion-MNIST, ten clients a round, on dense and sparse kernels; the contenders take turns.
- clients: all clients have the same 96 synthetic images, so that the data do not grow; ten clients train in a round.
- cohort: the same with 100 registered clients. Each measurement of clients and cohort has a process of its own.
- threads: random images in batches of 32, d = 0.05; the contenders take turns.
"""

import argparse
import csv
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

from flash_pl import JMWST, NST, PDST, Classifier, FederatedTrainer
from flash_pl.callbacks import Callback
from flash_pl.data import TensorBatches
from flash_pl.loops import EvaluationSchedule
from flash_pl.models import MNISTNet
from flash_pl.schedulers import Sensitivity, SparseScheduler
from flash_pl.server import RoundRobinSampler

CONTENDERS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}
BACKENDS = {"dense": "dense", "auto": "sparse"}  # trainer.backend -> kernels that it uses for these networks
CLIENTS = (10, 100, 1000, 10_000)
COHORTS = (5, 10, 20, 50, 100)
THREADS = (1, 2)
SCHEDULERS: dict[str, Callable[[Sensitivity], SparseScheduler]] = {
    "pdst": lambda _: PDST(),
    "jmwst": lambda stage_1: JMWST(sensitivity=stage_1),
    "nst": lambda _: NST(),
}


class EqualClients:
    """Federated data of any number of clients that all have the same 96 images."""

    def __init__(self, clients: int) -> None:
        self.clients, self.classes = clients, 10
        draws = torch.Generator().manual_seed(1)
        images, labels = torch.randn(96, 1, 28, 28, generator=draws), torch.randint(10, (96,), generator=draws)
        self.batches = TensorBatches(images, labels, 32)
        self.client_sizes = [96] * clients

    def prepare_data(self) -> None: ...

    def setup(self, stage: str) -> None: ...

    def to_(self, device: torch.device) -> None: ...

    def client_batches(self, client: int) -> TensorBatches:
        return self.batches

    def val_dataloader(self) -> TensorBatches:
        return self.batches


def ranks(out: Path, rounds: int, repeats: int) -> None:
    """Print the median seconds of a round, and the median ratio to one process with one thread and the same kernels."""
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
            with open(run / "metrics.csv", newline="") as file:
                rounds_timed = list(csv.DictReader(file))[1:-1]  # the first one warms up, the last one is evaluated
            seconds[backend, name].append(statistics.median(float(row["seconds_train"]) for row in rounds_timed))
    print("| kernels | contender | s a round | ratio |\n|---|---|---|---|")
    for (backend, name), times in seconds.items():
        baseline = seconds[backend, next(iter(CONTENDERS))]
        ratio = statistics.median(pair[0] / pair[1] for pair in zip(times, baseline, strict=True))
        print(f"| {BACKENDS[backend]} | {name} | {statistics.median(times):.2f} | {ratio:.2f} |")


def clients() -> None:
    """Print a row per scheduler and number of registered clients."""
    print("| method | clients | ms a round | process, MiB | masks of clients, MiB | by mask-bits, MiB |")
    print("|---|---|---|---|---|---|")
    for scheduler in SCHEDULERS:
        for number in CLIENTS:
            sizes = in_a_process(scheduler, number, 10, rounds_for(scheduler, number))
            masks = f"{sizes['masks']:.1f} | {sizes['bits']:.1f}"
            print(f"| {scheduler} | {number} | {sizes['ms']:.0f} | {sizes['peak']:.0f} | {masks} |", flush=True)


def rounds_for(scheduler: str, number: int) -> int:
    """Number of rounds to time. With NST every client takes part once, so that the server holds all masks."""
    return max(30, number // 10) if scheduler == "nst" else 30


def cohort(rounds: int) -> None:
    """Print a row per scheduler and cohort size. Timing starts when all clients have taken part once."""
    print("| method | clients in a round | ms a round | ms a client | process, MiB |\n|---|---|---|---|---|")
    for scheduler in ("pdst", "jmwst"):
        for size in COHORTS:
            sizes = in_a_process(scheduler, 100, size, rounds, 100 // size)
            numbers = f"{sizes['ms']:.0f} | {sizes['ms'] / size:.1f} | {sizes['peak']:.0f}"
            print(f"| {scheduler} | {size} | {numbers} |", flush=True)


def in_a_process(scheduler: str, number: int, cohort: int, rounds: int, warmup: int = 0) -> dict[str, float]:
    """The result of ``measure`` in a process of its own."""
    settings = {"scheduler": scheduler, "number": number, "cohort": cohort, "rounds": rounds, "warmup": warmup}
    arguments = [f"--{key}={value}" for key, value in settings.items()]
    command = [sys.executable, __file__, "measure", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(scheduler: str, number: int, cohort: int, rounds: int, warmup: int) -> dict[str, float]:
    """Time rounds with ``cohort`` of ``number`` clients, after ``warmup`` untimed ones.

    Returns:
        ``ms``: median milliseconds of a round; in MiB: ``peak`` memory of the process, ``masks`` of clients as stored,
        and ``bits``, the same masks at one bit per weight.
    """
    torch.set_num_threads(1)
    seconds: list[float] = []

    class Clock(Callback):
        def on_round_end(self, loop: object, row: dict[str, float]) -> None:
            seconds.append(row["seconds"])

    trainer = FederatedTrainer(
        SCHEDULERS[scheduler](Sensitivity(init_fraction=min(1.0, 4 / number), epochs=1)),
        density=0.05,
        rounds=warmup + rounds,
        cohort=cohort,
        sampler=RoundRobinSampler(),
        evaluate=EvaluationSchedule(eval_every=10**9),
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[Clock()],
    )
    loop = trainer.fit(Classifier(MNISTNet(), classes=10), EqualClients(number))
    masks = loop.ledger.link.masks
    return {
        "ms": 1e3 * statistics.median(seconds[warmup:]),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "masks": masks.nbytes / 2**20,
        "bits": len(masks) * loop.server.layout.maskable / 8 / 2**20,
    }


def threads(repeats: int) -> None:
    """Print a row per network and contender."""
    print("| network | contender | 1 thread, ms a step | 2 threads, ms a step | ratio |\n|---|---|---|---|---|")
    for name in ("MNISTNet", "ResNet18"):
        network = NETWORKS[name]
        data = network.images()
        turns = bare_turns(network, data.client_batches(0))
        for contender, backend in {"dense kernels": "dense", "sparse kernels": "auto"}.items():
            turns[contender] = client_turn(federated(network, data, 0.05, backend))
        times = medians({f"{key} {n}": with_threads(n, turn) for key, turn in turns.items() for n in THREADS}, repeats)
        steps = {key: [times[f"{key} {n}"] / network.batches for n in THREADS] for key in turns}
        steps = {"bare dense loop": [min(pair) for pair in zip(*map(steps.pop, FORMATS), strict=True)]} | steps
        for contender, (first, second) in steps.items():
            print(f"| {name} | {contender} | {first:.2f} | {second:.2f} | {second / first:.2f} |", flush=True)


def with_threads(threads: int, turn: Turn) -> Turn:
    """The turn with a number of threads."""

    def run() -> None:
        torch.set_num_threads(threads)
        turn()

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["ranks", "clients", "cohort", "threads", "measure"])
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--rounds", type=int, help="default: 12; for measure as many as clients takes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scheduler", default="pdst")
    parser.add_argument("--number", type=int, default=10, help="registered clients")
    parser.add_argument("--cohort", type=int, default=10, help="clients in a round")
    parser.add_argument("--warmup", type=int, default=0, help="rounds before the timed ones")
    arguments = parser.parse_args()
    if arguments.task == "ranks":
        ranks(arguments.out, arguments.rounds or 12, arguments.repeats)
    elif arguments.task == "clients":
        clients()
    elif arguments.task == "cohort":
        cohort(arguments.rounds or 12)
    elif arguments.task == "threads":
        threads(arguments.repeats)
    else:
        rounds = arguments.rounds or rounds_for(arguments.scheduler, arguments.number)
        print(json.dumps(measure(arguments.scheduler, arguments.number, arguments.cohort, rounds, arguments.warmup)))
