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
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from flash_pl import Classifier, Dense, FederatedTrainer, drawing
from flash_pl.config import compose
from flash_pl.data import Batches, Synthetic
from flash_pl.loops import Member
from flash_pl.models import VGG11, LeafCNN, LeNet5, MNISTNet, MobileNetV2, ResNet18
from flash_pl.schedulers import PDST

DENSITIES = (1.0, 0.2, 0.1, 0.05, 0.02, 0.01)
SMALL, LARGE = (1, 28, 28), (3, 32, 32)
# Network, its shipped config, images, batches in a turn.
NETWORKS = {
    "MNISTNet": (MNISTNet, "mnistnet", SMALL, 19),
    "LeNet5": (LeNet5, "lenet5", SMALL, 19),
    "LeafCNN": (LeafCNN, "leaf_cnn", SMALL, 19),
    "ResNet18": (ResNet18, "resnet18", LARGE, 4),
    "VGG11": (VGG11, "vgg11", LARGE, 8),
    "MobileNetV2": (MobileNetV2, "mobilenet_v2", LARGE, 4),
}
RESULTS = Path(__file__).parent / "results" / "steps.json"
Turn = Callable[[], None]


def bare(network: nn.Module, batches: Batches, channels_last: bool) -> Turn:
    """Plain PyTorch, dense."""
    network = network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).train()
    order = torch.Generator().manual_seed(0)

    def turn() -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        for images, labels in batches.shuffled(order):
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return turn


def ours(network: nn.Module, model: str, data: Synthetic, density: float, backend: str = "auto") -> tuple[Turn, float]:
    """A client's training through the federated loop, and its FLOPs against dense ones."""
    settings = compose({"method": "pdst"}, [f"model={model}"])["model"]
    trainer = FederatedTrainer(
        Dense() if density == 1 else PDST(),
        density=density,
        cohort=1,
        seed=1,
        accelerator="cpu",
        backend=backend,
        exclude=[f"model.{pattern}" for pattern in settings["exclude"]],
        exclude_first_last=settings["exclude_first_last"],
    )
    loop = trainer.loop(Classifier(network, classes=10, lr=0.01), data)
    loop.on_run_start()
    batches, flops = data.client_batches(0), loop.accounts.bill.flops
    assert flops is not None
    context = loop.plan.context(Member(0, 0, batches.samples), len(batches), 0)
    loop.client.backend.__enter__()

    def turn() -> None:
        loop.client.receive(loop.server.weights, loop.server.mask)
        loop.parts.local.run(loop.client, loop.scheduler, batches, context)

    densities = loop.server.layout.densities(loop.server.mask)
    return turn, flops.training(densities) / flops.training(flops.dense)


def measure(name: str, repeats: int) -> list[dict[str, float | str]]:
    """One row per density."""
    make, model, shape, count = NETWORKS[name]
    options = {"num_classes": 10, "in_channels": shape[0]}
    data = images(shape, count)
    batches = data.client_batches(0)
    turns: dict[str, Turn] = {
        format: bare(make(**options), batches, format == "channels last") for format in ("contiguous", "channels last")
    }
    work = {}
    for density in DENSITIES:
        turns[str(density)], work[density] = ours(make(**options), model, data, density)
    times: dict[str, list[float]] = {key: [] for key in turns}
    for repeat in range(repeats + 1):
        for key, turn in turns.items():
            begun = time.perf_counter()
            turn()
            if repeat:  # the first round warms up
                times[key].append(1e3 * (time.perf_counter() - begun) / len(batches))
    dense = min(statistics.median(times[format]) for format in ("contiguous", "channels last"))
    rows = []
    for density in DENSITIES:
        milliseconds = statistics.median(times[str(density)])
        row = {"network": name, "density": density, "dense_ms": dense, "ms": milliseconds, "flops": work[density]}
        numbers = f"{dense:.2f} | {milliseconds:.2f} | {dense / milliseconds:.2f} | {1 / work[density]:.1f}"
        print(f"| {name} | {density:g} | {numbers} |", flush=True)
        rows.append(row)
    return rows


def images(shape: tuple[int, int, int], batches: int) -> Synthetic:
    """Two clients with so many batches of 32 each."""
    data = Synthetic(samples=64 * batches, test_samples=40, classes=10, shape=shape, clients=2, batch_size=32, seed=1)
    data.setup("fit")
    return data


def peak(name: str, backend: str) -> None:
    """MiB that a client's training adds to the process' peak; to be run in a process of its own."""
    make, model, shape, _ = NETWORKS[name]
    turn, _ = ours(make(num_classes=10, in_channels=shape[0]), model, images(shape, 2), 0.05, backend)
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
    make, model, shape, count = NETWORKS[name]
    turn, _ = ours(make(num_classes=10, in_channels=shape[0]), model, images(shape, count), 0.05)
    turn()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        turn()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    parts = [f"{event.key} {100 * event.self_cpu_time_total / total:.0f}" for event in events[:9]]
    print(f"{name}: {', '.join(parts)}")


def plot(to: Path) -> None:
    """Time against density, both relative to the dense loop, beside the ideal."""
    rows = json.loads(RESULTS.read_text())
    figure, (axes,) = drawing.new_figure(1, across=1, height=4.2)
    for index, name in enumerate(dict.fromkeys(row["network"] for row in rows)):
        mine = sorted((row for row in rows if row["network"] == name), key=lambda row: row["density"])
        x, y = (np.array([row[key] for row in mine]) for key in ("density", "ms"))
        drawing.draw(axes, x, y / np.array([row["dense_ms"] for row in mine]), None, drawing.line_style(index), name)
    ideal = np.array(sorted(DENSITIES))
    axes.plot(ideal, ideal, color="0.6", linestyle=":", label="proportional to density")
    axes.set(xlabel="density", ylabel="time of a step, dense PyTorch = 1")
    drawing.logarithmic(axes.xaxis)
    drawing.logarithmic(axes.yaxis)
    drawing.legend_below(figure, [axes])
    to.write_bytes(drawing.as_png(figure))


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
        return plot(chosen.to)
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
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in chosen.networks:
        known = [row for row in known if row["network"] != name] + measure(name, chosen.repeats)
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
