"""What the host does for one client and one of its steps, with and without captured steps. Needs no GPU.

    python benchmarks/speed/host.py    # a minute; a Markdown table

Batches have one image, so that almost all time of a step is that of Python and of preparing operations. A replay does
nothing here: what is left is the host's part of it. Times are those of the thread, medians of ``REPEATS`` clients of
``STEPS`` steps; the contenders take turns. A step that is not captured also computes its one image on the CPU. The
client has a fixed mask of density 0.05 (PDST), or moves it (JMWST).

- operations: calls of the dispatcher in a step that launch a kernel on a GPU (views and allocations launch none).
- waits: operations of a whole client for which the host would wait for a GPU.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from networks import LR, NETWORKS, SILENT, Network
from torch.utils._python_dispatch import TorchDispatchMode

from flash_pl import Classifier, FederatedTrainer
from flash_pl.client.recorder import CpuRecorder, waits
from flash_pl.data import Synthetic
from flash_pl.loops import CapturedLoop, FederatedLoop, LocalLoop
from flash_pl.schedulers import JMWST, PDST, SparseScheduler

STEPS, REPEATS = 20, 15
WITHOUT_KERNEL = {"detach", "empty", "empty_like", "empty_strided", "new_empty", "result_type"}


class Moving(JMWST):
    """JMWST without stage 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first_stage = None


class Captured(FederatedTrainer):
    def make_local_loop(self) -> LocalLoop:
        return CapturedLoop(self.fabric, self.clipping, CpuRecorder)


class Nothing:
    """In place of a recorder whose replay costs the host nothing."""

    def replay(self) -> None:
        pass


class Counting(TorchDispatchMode):
    """Counts operations and waits."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.waits = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = function._schema.returns
        is_view = bool(returned) and all(r.alias_info is not None and not r.alias_info.is_write for r in returned)
        if function.namespace == "aten" and not is_view and function.overloadpacket.__name__ not in WITHOUT_KERNEL:
            self.operations += 1
        self.waits += waits(function, args)
        return function(*args, **(kwargs or {}))


def make_loop(
    network: Network, trainer: type[FederatedTrainer], scheduler: Callable[[], SparseScheduler]
) -> FederatedLoop:
    """A loop of clients with ``STEPS`` batches of one image."""
    torch.manual_seed(0)
    data = Synthetic(2 * STEPS, shape=network.shape, test_samples=10, clients=2, batch_size=1, seed=1)
    made = trainer(scheduler(), density=0.05, cohort=1, seed=1, accelerator="cpu", backend="dense", rounds=1, **SILENT)
    loop = made.loop(Classifier(network.build(), classes=10, lr=LR), data)
    loop.make_first_mask()
    return loop


def client(loop: FederatedLoop) -> Callable[[], None]:
    """Trains one client."""
    batches = loop.data.client_batches(0)
    (participant,) = loop.plan.sample_cohort(0)

    def turn() -> None:
        loop.client.receive(loop.server.weights, loop.server.mask)
        loop.local.run(loop.client, loop.scheduler, batches, loop.plan.context(participant, len(batches), 0))

    return turn


class Steps:
    """The time that a loop spends in its steps, without what a client does before, between and after them."""

    def __init__(self, local: Any) -> None:
        self.seconds, self.step = 0.0, local.step
        local.step = self

    def __call__(self, *arguments: Any) -> Any:
        begun = time.thread_time()
        try:
            return self.step(*arguments)
        finally:
            self.seconds += time.thread_time() - begun


def microseconds(turn: Callable[[], None], steps: Steps) -> tuple[float, float]:
    """Of a step with its share of the client, and of the step alone."""
    begun, steps.seconds = time.thread_time(), 0.0
    turn()
    return 1e6 * (time.thread_time() - begun) / STEPS, 1e6 * steps.seconds / STEPS


def counted(turn: Callable[[], None]) -> Counting:
    with Counting() as counting:
        turn()
    return counting


def measure(network: Network, scheduler: Callable[[], SparseScheduler]) -> list[str]:
    loops = {trainer: make_loop(network, trainer, scheduler) for trainer in (FederatedTrainer, Captured)}
    turns = {trainer: client(loop) for trainer, loop in loops.items()}
    for turn in turns.values():
        turn()
    plain = counted(turns[FederatedTrainer])
    local: Any = loops[Captured].local
    for step in local._captured.values():
        step.recorder = Nothing()
    captured = counted(turns[Captured])
    timers = {trainer: Steps(loop.local) for trainer, loop in loops.items()}
    times: dict[Any, list[tuple[float, float]]] = {trainer: [] for trainer in turns}
    for _ in range(REPEATS):
        for trainer, turn in turns.items():
            times[trainer].append(microseconds(turn, timers[trainer]))
    medians = [[statistics.median(column) for column in zip(*times[trainer], strict=True)] for trainer in turns]
    per_step = [f"{counting.operations / STEPS:.1f}" for counting in (plain, captured)]
    with_share, alone = zip(*medians, strict=True)
    microseconds_of = [f"{value:.0f}" for value in (*alone, *with_share)]
    return [*per_step, f"{plain.waits}", f"{captured.waits}", *microseconds_of]


def main() -> None:
    print(
        "| network, method | operations a step | captured | waits a client | captured | us a step | captured "
        "| us with the step's share of its client | captured |"
    )
    print(f"|{9 * '---|'}")
    for name in ("LeNet5", "MNISTNet", "LeafCNN", "ResNet18"):
        for scheduler in (PDST, Moving):
            label = "PDST" if scheduler is PDST else "JMWST"
            print(f"| {name}, {label} | {' | '.join(measure(NETWORKS[name], scheduler))} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
