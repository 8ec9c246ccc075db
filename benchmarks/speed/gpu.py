"""What a GPU and its host do in a federated round: one command of at most six minutes.

    OMP_NUM_THREADS=1 python benchmarks/speed/gpu.py                     # results/gpu.json, renewed after each line
    OMP_NUM_THREADS=1 python benchmarks/speed/gpu.py --cpu --seconds 90  # tries the script itself, without a GPU

The parts, in this order; each fails alone, and none begins when the time is over:

- host: microseconds of a launch, of a node of a CUDA graph and of a replay. Everything else follows from these.
- bits: runs with captured steps against the same runs without; and modules whose steps must not be captured.
- steps: milliseconds of a step by hand (plain PyTorch, the faster memory format), in the federated loop, captured, and
  of the replay alone.
- rounds: milliseconds of a round of four clients, relative to FedAvg by hand on the same batches: dense, PDST and JMWST
  at d = 0.05, each without and with captured steps; PDST in bfloat16.
- processes: seconds of a round of eight clients on 1, 2, 4 and 8 processes that share the GPU, without and with
  captured steps and MPS.

The contenders of a part take turns within one process; medians of wall-clock times. A turn ends when the GPU is idle. A
GPU multiplies pruned weights as zeros, so sparsity makes nothing faster here. With ``--cpu`` a recorder stands in for
graphs, so that times say nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from networks import LR, NETWORKS, NO_EVALUATION, Turn, bare, client_turn, federated, medians, train
from round import COHORT, bare_rounds

from flash_pl import JMWST, PDST, Classifier, FederatedTrainer
from flash_pl.atomic_write import write_atomically
from flash_pl.callbacks import History
from flash_pl.client.recorder import CpuRecorder, CudaRecorder
from flash_pl.loops import CapturedLoop, FederatedLoop

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "gpu.json"
WORKER_ROUNDS, WORKER_CLIENTS = 6, 8


class Moving(JMWST):
    """JMWST from a random mask, without stage 1, which is not part of a round."""

    def __init__(self) -> None:
        super().__init__()
        self.first_stage = None


METHODS: dict[str, dict[str, Any]] = {
    "dense": {"density": 1.0},
    "pdst": {"density": 0.05},
    "jmwst": {"density": 0.05, "scheduler": Moving},
}


class Bench:
    """Runs the parts and writes what they find.

    Args:
        cpu: try the script without a GPU.
        seconds: of all parts together.
        networks: names in ``NETWORKS``.
        out: file of the results.
    """

    def __init__(self, cpu: bool, seconds: float, networks: list[str], out: Path) -> None:
        self.cpu, self.end, self.networks, self.out = cpu, time.monotonic() + seconds, networks, out
        self.device = "cpu" if cpu else "cuda"
        self.recorder: Any = CpuRecorder if cpu else CudaRecorder
        self.facts: dict[str, Any] = {}

    def run(self) -> None:
        for part in (self.host, self.bits, self.steps, self.rounds, self.processes):
            begun = time.monotonic()
            try:
                part()
            except TimeoutError:
                print(f"{part.__name__}: no time left")
            except Exception:
                traceback.print_exc()
                self.say(f"{part.__name__}/failed", error=traceback.format_exc().splitlines()[-1])
            print(f"-- {part.__name__}: {time.monotonic() - begun:.0f} s", flush=True)

    def say(self, name: str, **facts: Any) -> None:
        """Print a line and write all lines so far."""
        self.facts[name] = facts
        shown = (f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in facts.items())
        print(name, *shown, flush=True)
        write_atomically(self.out, (json.dumps(self.facts, indent=1, default=str) + "\n").encode())

    def need(self, seconds: float) -> None:
        """Check that there are so many seconds left."""
        if time.monotonic() + seconds > self.end:
            raise TimeoutError

    def timed(self, turn: Turn, deterministic: bool = True) -> Turn:
        """A turn that waits for the GPU at its end. Determinism is a setting of the process, so every turn sets it."""

        def with_wait() -> None:
            torch.use_deterministic_algorithms(deterministic and not self.cpu, warn_only=True)
            turn()
            if not self.cpu:
                torch.cuda.synchronize()

        return with_wait

    def milliseconds(self, turn: Turn, repeats: int = 9) -> float:
        return medians({"": self.timed(turn)}, repeats)[""]

    def captured(self, loop: FederatedLoop) -> FederatedLoop:
        """The loop with captured steps."""
        loop.local = CapturedLoop(loop.fabric, loop.local.clipping, self.recorder)
        return loop

    # Parts

    def host(self) -> None:
        name = "cpu" if self.cpu else torch.cuda.get_device_name()
        self.say("machine", device=name, torch=torch.__version__, cores=os.cpu_count(), load=os.getloadavg()[0])
        x, launches = torch.zeros(64, device=self.device), 1000

        def many() -> None:
            for _ in range(launches):
                x.add_(1)

        self.say("launch", us=1e3 * self.milliseconds(many) / launches)
        if not self.cpu:
            graph, one = CudaRecorder(), CudaRecorder()
            graph.record(many)
            self.say("node of a graph", us=1e3 * self.milliseconds(graph.replay) / launches)
            one.record(lambda: x.add_(1))
            self.say("replay", us=1e3 * self.milliseconds(lambda: [one.replay() for _ in range(200)]) / 200)

    def bits(self) -> None:
        sys.path.insert(0, str(ROOT))
        from tests.loops import test_captured as cases

        def compare(name: str, make: Callable[[], Any], scheduler: Callable[[], Any]) -> None:
            self.need(30)
            tensors, rows, _ = cases.run(make, scheduler(), FederatedTrainer, rounds=2, accelerator=self.device)
            trainer: Any = cases.RecordedSteps if self.cpu else FederatedTrainer
            graphs = {} if self.cpu else {"graphs": True}
            again, its_rows, loop = cases.run(make, scheduler(), trainer, rounds=2, accelerator=self.device, **graphs)
            same = all(map(torch.equal, tensors, again))
            self.say(
                name, same=same, rows=rows == its_rows, steps=dict(loop.local.counts), why="; ".join(loop.local.told)
            )

        for name, make in cases.MODULES.items():
            for scheduler in (PDST, cases.moving):
                compare(f"bits/{name}/{scheduler.__name__}", make, scheduler)
        for module in (cases.Counts, cases.Waits, cases.NumpyDraws, cases.Index, cases.Epoch, cases.LogsAMetric):
            compare(f"eager/{module.__name__}", module, PDST)

    def steps(self) -> None:
        for name in self.networks:
            self.need(40)
            network = NETWORKS[name]
            data = network.images(batches=2 if self.cpu else None)
            batches = data.client_batches(0)
            loops = {
                key: federated(network, data, 0.05, "dense", accelerator=self.device) for key in ("eager", "captured")
            }
            self.captured(loops["captured"])
            batches = loops["eager"].data.client_batches(0)
            turns = {
                format: self.timed(partial(train, module, batches, torch.Generator().manual_seed(0)), False)
                for format, module in bare(network, self.device).items()
            }
            turns |= {key: self.timed(client_turn(loop)) for key, loop in loops.items()}
            for turn in turns.values():
                turn()
            times = {key: value / len(batches) for key, value in medians(turns, 3 if self.cpu else 9).items()}
            local: Any = loops["captured"].local
            replay = [step.recorder.replay for step in local._captured.values()][:1]
            if replay:
                times["replay alone"] = self.milliseconds(replay[0], 30)
            self.say(f"step/{name}", **times, steps=dict(local.counts), why="; ".join(local.told))

    def rounds(self) -> None:
        for name in self.networks:
            self.need(45)
            network = NETWORKS[name]
            data = network.images(clients=COHORT, batches=2 if self.cpu else None)
            settings = {"cohort": COHORT, "accelerator": self.device, "backend": "dense"}
            loops = {key: federated(network, data, **method, **settings) for key, method in METHODS.items()}
            loops["pdst, bf16-mixed"] = federated(network, data, **METHODS["pdst"], **settings, precision="bf16-mixed")
            for key, method in METHODS.items():
                loops[f"{key}, captured"] = self.captured(federated(network, data, **method, **settings))
            turns = {
                format: self.timed(bare_rounds(module, loops["dense"]), deterministic=False)
                for format, module in bare(network, self.device).items()
            }
            by_hand = list(turns)
            turns |= {key: self.timed(loop.train_round) for key, loop in loops.items()}
            for turn in turns.values():  # a round of watching and capturing is none of those that are timed
                turn()
            times = medians(turns, 3 if self.cpu else 7)
            hand = min(times[format] for format in by_hand)
            self.say(f"round/{name}", by_hand_ms=hand, **{key: times[key] / hand for key in loops})

    def processes(self) -> None:
        """Each line starts processes of its own, so these do not take turns."""
        plan = [(1, False, False), (1, True, False), (4, False, False), (4, True, False), (8, False, False)]
        plan += [(4, True, True), (8, True, True), (2, False, False), (2, True, False)]
        environment, folder = dict(os.environ), tempfile.mkdtemp()
        try:
            for number, graphs, mps in [(1, False, False), (2, False, False)] if self.cpu else plan:
                self.need(40)
                if mps and "CUDA_MPS_PIPE_DIRECTORY" not in environment:
                    environment |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
                    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, timeout=20, check=True)
                command = [
                    sys.executable,
                    __file__,
                    *["--worker", str(number), "--networks", self.networks[0]],
                    *["--graphs"] * graphs,
                    *["--cpu"] * self.cpu,
                ]
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=self.end - time.monotonic()
                )
                lines = [line for line in done.stdout.splitlines() if line.startswith("seconds ")]
                seconds = float(lines[0].split()[1]) if lines else done.stderr[-200:]
                name = f"processes/{self.networks[0]}/{number}{', captured' * graphs}{', MPS' * mps}"
                self.say(name, seconds_a_round=seconds)
        finally:
            if "CUDA_MPS_PIPE_DIRECTORY" in environment:
                subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, env=environment, timeout=20)


def worker(network: str, processes: int, graphs: bool, cpu: bool) -> None:
    """A run on so many processes; rank 0 prints the median seconds of training of its rounds after the second."""
    history, made = History(), NETWORKS[network]
    data = made.images(clients=WORKER_CLIENTS, batches=2 if cpu else None)
    where: dict[str, Any] = {"processes_per_device": processes, "graphs": graphs}
    if cpu:
        where = {"accelerator": "cpu", "devices": processes}
    trainer = FederatedTrainer(
        PDST(),
        density=0.05,
        cohort=WORKER_CLIENTS,
        backend="dense",
        callbacks=[history],
        **where,
        **NO_EVALUATION | {"rounds": WORKER_ROUNDS},
    )
    trainer.fit(Classifier(made.build(), classes=10, lr=LR), data)
    if trainer.launch().rank == 0:
        print("seconds", statistics.median(row["seconds_train"] for row in history.rows[2:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks", nargs="+", default=["LeNet5", "MNISTNet", "LeafCNN", "ResNet18"], choices=NETWORKS
    )
    parser.add_argument("--seconds", type=float, default=340)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cpu", action="store_true", help="try the script without a GPU")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--graphs", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.worker:
        worker(arguments.networks[0], arguments.worker, arguments.graphs, arguments.cpu)
    else:
        Bench(arguments.cpu, arguments.seconds, arguments.networks, arguments.out).run()


if __name__ == "__main__":
    main()
