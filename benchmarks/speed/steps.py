"""Steps of a client's training at each density against a bare PyTorch loop with dense kernels: one thread, batch 32.

    python benchmarks/steps.py run --networks MNISTNet LeNet5 LeafCNN    # minutes; JSON and a line per cell
    python benchmarks/steps.py plot                                      # docs/steps.png
    python benchmarks/steps.py profile                                   # what takes the time at d = 0.05
    python benchmarks/steps.py memory                                    # peak memory of a client at d = 0.05

The bare loop runs in both memory formats, and the faster one counts. All contenders take turns within one process, with
the same number of batches of random images; medians. Masks are random, of uniform density, over the layers that the
shipped configs mask.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
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

from flash_pl.loops import FederatedLoop

RESULTS = Path(__file__).parent / "results" / "steps.json"


def work(loop: FederatedLoop) -> float:
    """The FLOPs of a client's training against dense ones."""
    flops = loop.ledger.bill.flops
    assert flops is not None
    return flops.training(loop.server.layout.densities(loop.server.mask)) / flops.training(flops.dense)


def measure(name: str, repeats: int) -> list[Row]:
    """One row per density."""
    network = NETWORKS[name]
    data = network.images()
    batches = data.client_batches(0)
    loops = {density: federated(network, data, density) for density in DENSITIES}
    turns = bare_turns(network, batches) | {str(density): client_turn(loop) for density, loop in loops.items()}
    times = {key: each / len(batches) for key, each in medians(turns, repeats).items()}
    dense = min(times[format] for format in FORMATS)
    rows = []
    for density, loop in loops.items():
        milliseconds, flops = times[str(density)], work(loop)
        numbers = f"{dense:.2f} | {milliseconds:.2f} | {dense / milliseconds:.2f} | {1 / flops:.1f}"
        print(f"| {name} | {density:g} | {numbers} |", flush=True)
        rows.append({"network": name, "density": density, "dense_ms": dense, "ms": milliseconds, "flops": flops})
    return rows


def peak(name: str, backend: str) -> None:
    """MiB that a client's training adds to the process' peak; to be run in a process of its own."""
    network = NETWORKS[name]
    turn = client_turn(federated(network, network.images(batches=2), 0.05, backend))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    turn()
    print(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f}")


def memory(networks: list[str]) -> None:
    """A line per network."""
    print("| network | dense kernels, MiB | sparse kernels, MiB |\n|---|---|---|")
    for name in networks:
        cells = []
        for backend in ("dense", "auto"):
            command = [sys.executable, __file__, "peak", "--networks", name, "--backend", backend]
            found = [int(subprocess.run(command, capture_output=True, text=True).stdout) for _ in range(3)]
            cells.append(str(statistics.median(found)))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def profile_of(name: str) -> None:
    """Where the time of a step at d = 0.05 goes, in %."""
    network = NETWORKS[name]
    turn = client_turn(federated(network, network.images(), 0.05))
    turn()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        turn()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    parts = [f"{event.key} {100 * event.self_cpu_time_total / total:.0f}" for event in events[:9]]
    print(f"{name}: {', '.join(parts)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "plot", "profile", "memory", "peak"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--to", type=Path, default=Path("docs/steps.png"))
    parser.add_argument("--backend", default="auto")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.task == "plot":
        figure, axes = against_density(json.loads(RESULTS.read_text()), "step")
        return save(figure, axes, chosen.to)
    if chosen.task == "memory":
        return memory(chosen.networks)
    if chosen.task == "profile":
        for name in chosen.networks:
            profile_of(name)
        return None
    if chosen.task == "peak":
        return peak(chosen.networks[0], chosen.backend)
    torch.manual_seed(0)
    print("| network | d | bare dense loop, ms | ours, ms | times faster | FLOPs, dense / sparse |")
    print("|---|---|---|---|---|---|")
    for name in chosen.networks:
        record(RESULTS, name, measure(name, chosen.repeats))


if __name__ == "__main__":
    main()
