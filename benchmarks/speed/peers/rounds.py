"""The time of a contender's rounds, with the bare loop around each of them, and the report of a process."""

import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from workload import BareLoop, Task, Workload

torch.set_num_threads(1)


class Rounds:
    """Call ``mark`` before the first round and after each; what happens within ``mark`` is not counted.

    The machine's speed drifts, so the bare loop runs before the first round and after each: a round is compared with
    the mean of the two that enclose it.

    Args:
        task: of this process.
        clock: for the bare loop; ``time.thread_time`` if the contender has other threads that could disturb it.
    """

    def __init__(self, task: Task, workload: Workload, clock: Callable[[], float] = time.perf_counter) -> None:
        self.task, self.workload, self.clock = task, workload, clock
        self.seconds: list[float] = []
        self.bare: list[float] = []
        self.begun = self.first_round_at = 0.0
        clients = sorted({client for cohort in workload.cohorts for client in cohort})
        self.loop = BareLoop(workload, clients) if task.bare else None

    def mark(self) -> None:
        if self.begun:
            self.seconds.append(time.perf_counter() - self.begun)
            self.first_round_at = self.first_round_at or time.time()
        if self.loop:
            # The cohorts in turn: a cohort that was trained a moment ago is still in the caches.
            cohort = self.workload.cohorts[len(self.bare) % len(self.workload.cohorts)]
            begun = self.clock()
            self.loop.round(cohort)
            self.bare.append(self.clock() - begun)
        self.begun = time.perf_counter()

    def report(self, network: nn.Module, package: str = "torch") -> None:
        """Write what was measured; ``network`` has the final weights, ``package`` is the contender's on PyPI."""
        if len(self.seconds) != self.task.rounds:
            raise RuntimeError(f"{len(self.seconds)} of {self.task.rounds} rounds were timed")
        judged = self.workload.judge(network) if self.task.bare else {}  # it takes memory
        save(self.task, judged, package, self.seconds, self.bare, self.first_round_at)


def save(
    task: Task, judged: dict[str, float], package: str, seconds: list[float], bare: list[float], first_round_at: float
) -> None:
    measured = {"seconds": seconds, "bare": bare, "first_round_at": first_round_at}
    names = {"version": f"{package} {version(package)}", "torch": str(torch.__version__)}
    Path(task.to).write_text(json.dumps(names | judged | measured))
