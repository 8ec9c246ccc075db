"""How seconds and memory grow: with processes and threads, and with the number of registered clients.

    python benchmarks/scaling.py ranks      # 1 process with 1 and with 2 threads, 2 processes with 1 thread each
    python benchmarks/scaling.py clients    # 10 to 10,000 registered clients

Ranks: rounds of PDST on Fashion-MNIST, ten clients a round; the contenders take turns. Clients: all have the same 96
synthetic images, so that the data do not grow; ten train a round. Each number of clients has a process of its own.
"""

import argparse
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from study import rows

from flash_pl import JMWST, NST, PDST, Classifier, FederatedTrainer
from flash_pl.data import Batches
from flash_pl.loops import EvaluationSchedule
from flash_pl.models import MNISTNet
from flash_pl.schedulers import Sensitivity, SparseScheduler
from flash_pl.server import RoundRobinSampler

CONTENDERS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}
CLIENTS = (10, 100, 1000, 10_000)


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
    """Median seconds of a round, and the median ratio to one process with one thread of the same turn."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for repeat in range(repeats):
        for name, (devices, threads) in list(CONTENDERS.items())[:: 1 if repeat % 2 else -1]:
            run = out / f"ranks-{devices}-{threads}-{repeat}"
            arguments = ["data=fashion_mnist", f"rounds={rounds}", f"run_dir={run}", "trainer.accelerator=cpu"]
            arguments += [f"trainer.devices={devices}", f"trainer.threads={threads}", f"trainer.eval_every={rounds}"]
            command = [sys.executable, "-m", "flash_pl", "fit", "pdst", *arguments]
            subprocess.run(command, check=True, capture_output=True)
            # The first round warms up, the last one is evaluated.
            seconds[name].append(statistics.median(float(row["seconds_train"]) for row in rows(run)[1:-1]))
    print("| contender | s a round | ratio |\n|---|---|---|")
    base = seconds[next(iter(CONTENDERS))]
    for name, found in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(found, base, strict=True))
        print(f"| {name} | {statistics.median(found):.2f} | {ratio:.2f} |")


def clients() -> None:
    """A line per method and number of clients, each from a process of its own."""
    print("| method | clients | ms a round | process, MiB | masks of clients, MiB | by mask-bits, MiB |")
    print("|---|---|---|---|---|---|")
    for method in ("pdst", "jmwst", "nst"):
        for number in CLIENTS:
            command = [sys.executable, __file__, "one", "--method", method, "--number", str(number)]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


def one(method: str, number: int) -> None:
    """One line of :func:`clients`. For NST every client takes part, in turn."""
    torch.set_num_threads(1)
    stage_1 = Sensitivity(init_fraction=min(1.0, 4 / number), epochs=1)
    makers = {"pdst": PDST, "jmwst": lambda: JMWST(sensitivity=stage_1), "nst": NST}
    scheduler: SparseScheduler = makers[method]()
    seconds: list[float] = []

    class Clock:
        def on_round_end(self, loop: object, row: dict[str, float]) -> None:
            seconds.append(row["seconds"])

    rounds = max(30, number // 10) if method == "nst" else 30
    trainer = FederatedTrainer(
        scheduler,
        density=0.05,
        rounds=rounds,
        cohort=10,
        sampler=RoundRobinSampler(),
        evaluate=EvaluationSchedule(every=10**9),
        accelerator="cpu",
        callbacks=[Clock()],
    )
    loop = trainer.fit(Classifier(MNISTNet(), classes=10), Alike(number))
    masks = loop.accounts.link.masks
    held, bits = masks.nbytes / 2**20, len(masks) * loop.server.layout.maskable / 8 / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"| {method} | {number} | {1e3 * statistics.median(seconds):.0f} | {peak:.0f} | {held:.1f} | {bits:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["ranks", "clients", "one"])
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--method", default="pdst")
    parser.add_argument("--number", type=int, default=10)
    chosen = parser.parse_args()
    if chosen.task == "ranks":
        ranks(chosen.out, chosen.rounds, chosen.repeats)
    elif chosen.task == "clients":
        clients()
    else:
        one(chosen.method, chosen.number)
