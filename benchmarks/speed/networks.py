"""Shared by the speed benchmarks: networks, a bare PyTorch loop, the federated loop, medians, the figure."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from flash_pl import Classifier, Dense, FederatedTrainer, plotting
from flash_pl.atomic_write import write_atomically
from flash_pl.config import compose
from flash_pl.data import Batches, FederatedData, Synthetic
from flash_pl.loops import EvaluationSchedule, FederatedLoop, Participant, Plan
from flash_pl.models import VGG11, LeafCNN, LeNet5, MNISTNet, MobileNetV2, ResNet18
from flash_pl.schedulers import PDST, SparseScheduler

DENSITIES = (1.0, 0.2, 0.1, 0.05, 0.02, 0.01)
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
LR = 0.01
# Settings of a trainer whose timed rounds have no evaluation: only the millionth round would have one.
SILENT = {"enable_progress_bar": False, "enable_model_summary": False}
NO_EVALUATION: dict[str, Any] = {"rounds": 10**6, "evaluate": EvaluationSchedule(eval_every=10**6), **SILENT}
SMALL, LARGE = (1, 28, 28), (3, 32, 32)
Turn = Callable[[], None]  # one timed call of a contender
Row = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A network of the benchmarks.

    Args:
        make: class of the network.
        config: shipped configuration that says which layers are masked.
        shape: shape of an image.
        batches: batches of 32 images per client.
    """

    make: Callable[..., nn.Module]
    config: str
    shape: tuple[int, int, int]
    batches: int

    def build(self, format: str = "contiguous") -> nn.Module:
        network: Any = self.make(num_classes=10, in_channels=self.shape[0])
        return network.to(memory_format=FORMATS[format])  # type: ignore[no-any-return]

    def images(self, clients: int = 2, batches: int | None = None) -> Synthetic:
        """Random images, equally many per client."""
        samples = 32 * (batches or self.batches) * clients
        data = Synthetic(samples, shape=self.shape, test_samples=40, clients=clients, batch_size=32, seed=1)
        data.setup("fit")
        return data


NETWORKS = {
    "MNISTNet": Network(MNISTNet, "mnistnet", SMALL, 19),
    "LeNet5": Network(LeNet5, "lenet5", SMALL, 19),
    "LeafCNN": Network(LeafCNN, "leaf_cnn", SMALL, 19),
    "ResNet18": Network(ResNet18, "resnet18", LARGE, 4),
    "VGG11": Network(VGG11, "vgg11", LARGE, 8),
    "MobileNetV2": Network(MobileNetV2, "mobilenet_v2", LARGE, 4),
}


def train(network: nn.Module, batches: Batches, order: torch.Generator, lr: float = LR) -> None:
    """One epoch of plain PyTorch: the bare loop."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for images, labels in batches.shuffled(order):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_cohort(network: nn.Module, plan: Plan, data: FederatedData, round: int, lr: float = LR) -> None:
    """One round of FedAvg written by hand, with the cohort and the batches of the federated loop, without masks."""
    start = {name: value.clone() for name, value in network.state_dict().items()}
    total = {name: torch.zeros_like(value) for name, value in start.items() if value.is_floating_point()}
    cohort = plan.sample_cohort(round)
    samples = sum(participant.samples for participant in cohort)
    for participant in cohort:
        network.load_state_dict(start)
        batches = data.client_batches(participant.client)
        train(network, batches, plan.context(participant, len(batches), round).generator("batches"), lr)
        trained = network.state_dict()
        for name, tensor in total.items():
            tensor.add_(trained[name], alpha=participant.samples / samples)
    network.load_state_dict(start | total)


def bare(network: Network, device: str = "cpu") -> dict[str, nn.Module]:
    """The network in training mode, in both memory formats."""
    return {format: network.build(format).to(device).train() for format in FORMATS}


def bare_turns(network: Network, batches: Batches) -> dict[str, Turn]:
    """Training of one client by the bare loop, in both memory formats."""

    def turn_of(module: nn.Module) -> Turn:
        order = torch.Generator().manual_seed(0)
        return lambda: train(module, batches, order)

    return {format: turn_of(module) for format, module in bare(network).items()}


def federated(
    network: Network,
    data: Synthetic,
    density: float,
    backend: str = "auto",
    cohort: int = 1,
    accelerator: str = "cpu",
    scheduler: Callable[[], SparseScheduler] = PDST,
    **settings: Any,
) -> FederatedLoop:
    """A federated loop that is ready for its first round; at density 1 it trains densely."""
    model = compose({"scheduler": "pdst"}, [f"model={network.config}"])["model"]
    trainer = FederatedTrainer(
        Dense() if density == 1 else scheduler(),
        density=density,
        cohort=cohort,
        seed=1,
        accelerator=accelerator,
        backend=backend,
        exclude=[f"model.{pattern}" for pattern in model["exclude"]],
        exclude_first_last=model["exclude_first_last"],
        **NO_EVALUATION,
        **settings,
    )
    return started(trainer.loop(Classifier(network.build(), classes=10, lr=LR), data))


def started(loop: FederatedLoop) -> FederatedLoop:
    """The loop with its kernels and its first mask, as ``FederatedTrainer.run`` prepares it for the first round."""
    loop.client.backend.__enter__()
    loop.make_first_mask()
    return loop


def client_turn(loop: FederatedLoop) -> Turn:
    """Training of client 0 by the federated loop, under the server's mask."""
    batches = loop.data.client_batches(0)
    participant = Participant(0, 0, batches.samples, batches.samples)
    context = loop.plan.context(participant, len(batches), 0)

    def turn() -> None:
        loop.client.receive(loop.server.weights, loop.server.mask)
        loop.local.run(loop.client, loop.scheduler, batches, context)

    return turn


def medians(turns: Mapping[str, Turn], repeats: int) -> dict[str, float]:
    """Median milliseconds of each contender. The contenders take turns; the first turn of each is a warm-up."""
    times: dict[str, list[float]] = {key: [] for key in turns}
    for repeat in range(repeats + 1):
        for key, turn in turns.items():
            begun = time.perf_counter()
            turn()
            if repeat:
                times[key].append(1e3 * (time.perf_counter() - begun))
    return {key: statistics.median(each) for key, each in times.items()}


def record(path: Path, name: str, rows: Sequence[Row]) -> None:
    """Replace the rows of a network in a JSON file of results."""
    present = json.loads(path.read_text()) if path.exists() else []
    others = [row for row in present if row["network"] != name]
    write_atomically(path, (json.dumps([*others, *rows], indent=1) + "\n").encode())


def against_density(rows: Sequence[Row], unit: str) -> tuple[Figure, Axes]:
    """Draw time against density, relative to the bare loop, beside a line proportional to the density."""
    figure, (axes,) = plotting.new_figure(1, across=1, height=4.2)
    for index, name in enumerate(dict.fromkeys(row["network"] for row in rows)):
        curve = sorted((row for row in rows if row["network"] == name), key=lambda row: row["density"])
        x, y = np.array([row["density"] for row in curve]), np.array([row["ms"] / row["dense_ms"] for row in curve])
        plotting.plot_line(axes, x, y, None, plotting.line_style(index), name)
    ideal = np.array(sorted(DENSITIES))
    axes.plot(ideal, ideal, color="0.6", linestyle=":", label="proportional to density")
    axes.set(xlabel="density", ylabel=f"time of a {unit}, dense PyTorch = 1")
    plotting.set_log_scale(axes.xaxis)
    plotting.set_log_scale(axes.yaxis)
    return figure, axes


def save(figure: Figure, axes: Axes, path: Path) -> None:
    """Write the figure as PNG, with its legend below."""
    plotting.legend_below(figure, [axes])
    write_atomically(path, plotting.as_png(figure))
