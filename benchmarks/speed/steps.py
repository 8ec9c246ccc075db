"""Time of a training step at each density against a bare PyTorch loop with dense kernels: one thread, batch 32.

    python benchmarks/speed/steps.py run --networks MNISTNet LeNet5 LeafCNN   # minutes; results/steps.json
    python benchmarks/speed/steps.py plot                                     # docs/steps.png
    python benchmarks/speed/steps.py profile                                  # share of each operation at d = 0.05
    python benchmarks/speed/steps.py kernels --density 0.01                   # milliseconds of a step in each kernel
    python benchmarks/speed/steps.py memory                                   # peak memory of a client at d = 0.05

Where torch computes all layers, that is in the bare loop and in ours at d = 1, a network runs in both memory formats,
and the faster one counts. The contenders take turns within one process, with the same number of batches of random
images. Medians are compared. Masks are random and of uniform density over the layers that the shipped configurations
mask.
"""

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from networks import (
    DENSITIES,
    FORMATS,
    NETWORKS,
    Row,
    against_density,
    bare_turns,
    client_turn,
    federated,
    medians,
    record,
    save,
)

from flash_pl.kernels.library import ARGUMENTS, library
from flash_pl.loops import FederatedLoop

RESULTS = Path(__file__).parent / "results" / "steps.json"


def flops_ratio(loop: FederatedLoop) -> float:
    """FLOPs of a client's training relative to dense training."""
    flops = loop.ledger.flops
    assert flops is not None
    return flops.training(loop.server.layout.densities(loop.server.mask)) / flops.training(flops.dense)


def measure(name: str, repeats: int) -> list[Row]:
    """Measure a network; return one row per density."""
    network = NETWORKS[name]
    data = network.images()
    batches = data.client_batches(0)
    loops = {density: federated(network, data, density) for density in DENSITIES}
    turns = bare_turns(network, batches) | {str(density): client_turn(loop) for density, loop in loops.items()}
    turns["1.0 contiguous"] = client_turn(federated(network, data, 1.0, channels_last=False))
    times = {key: time / len(batches) for key, time in medians(turns, repeats).items()}
    dense = min(times[format] for format in FORMATS)
    formats = {"channels last": times["1.0"], "contiguous": times["1.0 contiguous"]}
    times["1.0"] = min(formats.values())
    rows = []
    for density, loop in loops.items():
        milliseconds, flops = times[str(density)], flops_ratio(loop)
        numbers = f"{dense:.2f} | {milliseconds:.2f} | {dense / milliseconds:.2f} | {1 / flops:.1f}"
        print(f"| {name} | {density:g} | {numbers} |", flush=True)
        rows.append({"network": name, "density": density, "dense_ms": dense, "ms": milliseconds, "flops": flops})
    rows[0]["formats_ms"] = formats
    print(f"{name} at d = 1, ms: {', '.join(f'{format} {each:.2f}' for format, each in formats.items())}", flush=True)
    return rows


def peak(name: str, backend: str) -> None:
    """Print the MiB that a client's training adds to this process at its peak; needs a process of its own."""
    network = NETWORKS[name]
    turn = client_turn(federated(network, network.images(batches=2), 0.05, backend))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that is free goes back, so that it is not in use before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the memory in use
    before = status("VmRSS")
    turn()
    print(f"{(status('VmHWM') - before) / 1024:.0f}")


def status(field: str) -> int:
    """Return a number of KiB from Linux's status of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory(networks: list[str]) -> None:
    """Print the median peak of three processes per network."""
    print("| network | dense kernels, MiB | sparse kernels, MiB |\n|---|---|---|")
    for name in networks:
        cells = []
        for backend in ("dense", "auto"):
            command = [sys.executable, __file__, "peak", "--networks", name, "--backend", backend]
            peaks = [int(subprocess.run(command, capture_output=True, text=True).stdout) for _ in range(3)]
            cells.append(str(statistics.median(peaks)))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def profile_of(name: str) -> None:
    """Print the shares of the operations in the time of a step at d = 0.05, in %."""
    network = NETWORKS[name]
    turn = client_turn(federated(network, network.images(), 0.05))
    turn()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        turn()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    shares = [f"{event.key} {100 * event.self_cpu_time_total / total:.0f}" for event in events[:9]]
    print(f"{name}: {', '.join(shares)}")


def kernels_of(name: str, density: float) -> None:
    """Print the milliseconds of a step that pass in each function of the compiled kernels."""
    network, native = NETWORKS[name], library()
    assert native is not None, "the kernels are not installed"
    turn, times = client_turn(federated(network, network.images(), density)), Counter[str]()
    for function in ARGUMENTS:
        setattr(native, function, timed(getattr(native, function), function, times))
    turn()
    times.clear()
    begun = time.perf_counter()
    for _ in range(5):
        turn()
    step = 1e3 * (time.perf_counter() - begun)
    parts = ", ".join(
        f"{function} {1e3 * seconds / 5 / network.batches:.2f}" for function, seconds in times.most_common()
    )
    total = 1e3 * times.total() / 5 / network.batches
    print(f"{name}, d = {density:g}: {step / 5 / network.batches:.2f} ms a step, {total:.2f} in the kernels: {parts}")


def timed(function: Callable[..., None], name: str, times: Counter[str]) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        begun = time.perf_counter()
        function(*arguments)
        times[name] += time.perf_counter() - begun

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "plot", "profile", "kernels", "memory", "peak"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--to", type=Path, default=Path("docs/steps.png"), help="file of the figure")
    parser.add_argument("--density", type=float, default=0.05, help="of the task kernels")
    parser.add_argument("--backend", default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.task == "plot":
        figure, axes = against_density(json.loads(RESULTS.read_text()), "step")
        return save(figure, axes, arguments.to)
    if arguments.task == "memory":
        return memory(arguments.networks)
    if arguments.task == "profile":
        for name in arguments.networks:
            profile_of(name)
        return None
    if arguments.task == "kernels":
        for name in arguments.networks:
            kernels_of(name, arguments.density)
        return None
    if arguments.task == "peak":
        return peak(arguments.networks[0], arguments.backend)
    torch.manual_seed(0)
    print("| network | d | bare dense loop, ms | ours, ms | times faster | FLOPs, dense / sparse |")
    print("|---|---|---|---|---|---|")
    for name in arguments.networks:
        record(RESULTS, name, measure(name, arguments.repeats))


if __name__ == "__main__":
    main()
