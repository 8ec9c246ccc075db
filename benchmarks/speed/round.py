"""Time of whole federated rounds at each density against FedAvg written by hand: one thread, batch 32.

    python benchmarks/speed/round.py run --networks MNISTNet LeafCNN    # results/round.json, and a row per cell
    python benchmarks/speed/round.py plot                               # docs/rounds.png

The contenders take turns within one process, with the same cohorts of four clients and the same batches of random
images. Medians are compared. The contenders are

- a bare PyTorch loop with dense kernels and without masks: it loads the server's weights, trains each client and
  averages; it runs in both memory formats, and the faster one counts;
- the federated loop with dense kernels at d = 0.05: sparsity simulated by masks;
- the federated loop with sparse kernels: PDST under a random mask of uniform density over the layers that the shipped
  configurations mask, and dense training at d = 1, in the faster memory format too.

A round is all work of the federated loop except evaluation: sampling the cohort, sending masks, counting bytes and
FLOPs, training and averaging the clients, voting on the mask, pruning the server. There are only these four clients, so
all get their first mask in the warm-up, and no timed round includes a first mask.
"""

import argparse
import json
import statistics
import time
from itertools import count
from pathlib import Path

import torch
from networks import (
    DENSITIES,
    FORMATS,
    NETWORKS,
    Row,
    Turn,
    against_density,
    bare,
    federated,
    medians,
    record,
    save,
    train_cohort,
)
from torch import nn

from flash_pl import plotting
from flash_pl.client import ClientContext, ClientState
from flash_pl.data import Batches
from flash_pl.loops import FederatedLoop
from flash_pl.schedulers import SparseScheduler
from flash_pl.server import ClientUpdate

COHORT = 4
CONTENDERS = [("dense", 0.05), *(("auto", density) for density in DENSITIES)]
DEFAULT_NETWORKS = ["MNISTNet", "LeafCNN", "ResNet18", "VGG11", "MobileNetV2"]
RESULTS = Path(__file__).parent / "results" / "round.json"


class Round:
    """Runs rounds of a federated loop and measures the share of each round that is local training."""

    def __init__(self, loop: FederatedLoop) -> None:
        self.loop, self.local, self.training = loop, loop.local.run, 0.0
        self.shares: list[float] = []
        loop.local.run = self._train  # type: ignore[method-assign]

    def __call__(self) -> None:
        self.training, begun = 0.0, time.perf_counter()
        self.loop.train_round()
        self.shares.append(self.training / (time.perf_counter() - begun))

    def _train(
        self, client: ClientState, scheduler: SparseScheduler, batches: Batches, context: ClientContext
    ) -> ClientUpdate:
        begun = time.perf_counter()
        update = self.local(client, scheduler, batches, context)
        self.training += time.perf_counter() - begun
        return update


def bare_rounds(module: nn.Module, loop: FederatedLoop) -> Turn:
    """Rounds of FedAvg written by hand, with the loop's cohorts."""
    rounds = count()
    return lambda: train_cohort(module, loop.plan, loop.data, next(rounds))


def measure(name: str, repeats: int) -> list[Row]:
    """Measure a network; return one row per contender except the bare loop."""
    network = NETWORKS[name]
    data = network.images(clients=COHORT)
    contenders = {key: Round(federated(network, data, key[1], key[0], COHORT)) for key in CONTENDERS}
    loop = contenders[CONTENDERS[0]].loop
    turns: dict[str, Turn] = {format: bare_rounds(module, loop) for format, module in bare(network).items()}
    contiguous = Round(federated(network, data, 1.0, cohort=COHORT, channels_last=False))
    turns |= {str(key): turn for key, turn in contenders.items()} | {"1 contiguous": contiguous}
    times, at_1 = medians(turns, repeats), ("auto", 1.0)
    if times["1 contiguous"] < times[str(at_1)]:
        times[str(at_1)], contenders[at_1] = times["1 contiguous"], contiguous
    dense = min(times[format] for format in FORMATS)
    rows = []
    for (backend, density), turn in contenders.items():
        milliseconds, share = times[str((backend, density))], statistics.median(turn.shares[1:])
        rows.append(
            {
                "network": name,
                "backend": backend,
                "density": density,
                "cohort": COHORT,
                "batches": network.batches,
                "dense_ms": dense,
                "ms": milliseconds,
                "training": share,
            }
        )
        numbers = f"{dense:.0f} | {milliseconds:.0f} | {dense / milliseconds:.2f}"
        shares = f"{100 * share:.1f} | {100 * (1 - share):.1f}"
        print(f"| {name} | {backend} | {density:g} | {numbers} | {shares} |", flush=True)
    return rows


def plot(to: Path) -> None:
    """Draw the curves of the sparse kernels, and a cross for masks on dense kernels."""
    rows = json.loads(RESULTS.read_text())
    figure, axes = against_density([row for row in rows if row["backend"] == "auto"], "round")
    for index, row in enumerate(row for row in rows if row["backend"] == "dense"):
        label = None if index else "masks, dense kernels"
        style = plotting.line_style(index) | {"linestyle": "", "marker": "x"}
        axes.plot(row["density"], row["ms"] / row["dense_ms"], label=label, **style)
    save(figure, axes, to)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "plot"])
    parser.add_argument("--networks", nargs="+", default=DEFAULT_NETWORKS, choices=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--to", type=Path, default=Path("docs/rounds.png"), help="file of the figure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.task == "plot":
        return plot(arguments.to)
    torch.manual_seed(0)
    print("| network | kernels | d | bare dense loop, ms | ours, ms | times faster | local training, % | rest, % |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.networks:
        record(RESULTS, name, measure(name, arguments.repeats))


if __name__ == "__main__":
    main()
