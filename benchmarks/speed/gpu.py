"""Whole federated rounds on a GPU against rounds of FedAvg written by hand there.

    python benchmarks/gpu.py --networks MNISTNet LeNet5 LeafCNN    # Markdown

Contenders take turns within one process, with the same cohorts of four clients and the same batches of 32 random images
that lie on the GPU; medians of wall-clock times, each turn ending when the GPU has nothing left to do. They are

- a bare PyTorch loop that loads the server's weights, trains each client and averages, without masks, in the faster of
  both memory formats;
- the federated loop, dense and with PDST at d = 0.05: with deterministic kernels, its default, without, in bfloat16;
- with JMWST at d = 0.05 from a random mask, where every client moves its mask and sends it, and the server votes.

A round is all of the federated loop but evaluation. On a GPU pruned weights are multiplied as zeros: sparsity makes
nothing here faster.
"""

import argparse
from typing import Any

import torch
from networks import FORMATS, NETWORKS, Row, Turn, advance, bare, federated, medians
from round import COHORT, bare_rounds

from flash_pl import JMWST
from flash_pl.loops import FederatedLoop


class Moving(JMWST):
    """JMWST that begins with a random mask: stage 1 is no part of a round."""

    def __init__(self) -> None:
        super().__init__()
        self.first_stage = None


CONTENDERS: dict[str, dict[str, Any]] = {
    "dense": {"density": 1.0},
    "pdst": {"density": 0.05},
    "pdst, any kernels": {"density": 0.05, "deterministic": False},
    "pdst, bf16-mixed": {"density": 0.05, "precision": "bf16-mixed"},
    "jmwst": {"density": 0.05, "method": Moving},
}


def until_done(turn: Turn, deterministic: bool) -> Turn:
    """A turn that waits for the GPU at its end; determinism is the process's, so each turn sets its own."""

    def timed() -> None:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        turn()
        torch.cuda.synchronize()

    return timed


def rounds_of(loop: FederatedLoop) -> Turn:
    return lambda: advance(loop)


def measure(name: str, repeats: int) -> Row:
    """Milliseconds of a round of every contender."""
    network = NETWORKS[name]
    data = network.images(clients=COHORT)
    loops = {
        key: federated(network, data, cohort=COHORT, accelerator="cuda", **settings)
        for key, settings in CONTENDERS.items()
    }
    turns = {
        format: until_done(bare_rounds(module, loops["dense"]), False)
        for format, module in bare(network, "cuda").items()
    }
    for key, loop in loops.items():
        turns[key] = until_done(rounds_of(loop), CONTENDERS[key].get("deterministic", True))
    times = medians(turns, repeats)
    by_hand = min(times[format] for format in FORMATS)
    return {"network": name, "batches": network.batches, "by hand": by_hand} | {key: times[key] for key in CONTENDERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=9)
    chosen, device = parser.parse_args(), torch.cuda.get_device_name()
    print(f"{device}, PyTorch {torch.__version__}, {COHORT} clients a round, ms; in brackets: times FedAvg by hand\n")
    columns = ["network", "batches a client", "FedAvg by hand", *CONTENDERS]
    print(f"| {' | '.join(columns)} |\n|{len(columns) * '---|'}")
    for name in chosen.networks:
        row = measure(name, chosen.repeats)
        numbers = [f"{row[key]:.0f} ({row[key] / row['by hand']:.2f})" for key in CONTENDERS]
        print(f"| {name} | {row['batches']} | {row['by hand']:.0f} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
