"""Time of whole federated rounds on a GPU against FedAvg written by hand on the same GPU.

    python benchmarks/speed/gpu.py --networks MNISTNet LeNet5 LeafCNN    # a Markdown table

The contenders take turns within one process, with the same cohorts of four clients and the same batches of 32 random
images in GPU memory. Medians of wall-clock times are compared; a turn ends when the GPU is idle. The contenders are

- a bare PyTorch loop that loads the server's weights, trains each client and averages, without masks, in the faster of
  both memory formats;
- the federated loop with dense training, and with PDST at d = 0.05: with deterministic kernels (the default), without,
  and in bfloat16;
- the federated loop with JMWST at d = 0.05 from a random mask: every client moves its mask and sends it, the server
  votes.

A round is all work of the federated loop except evaluation. A GPU multiplies pruned weights as zeros, so sparsity makes
nothing faster here.
"""

import argparse
from typing import Any

import torch
from networks import FORMATS, NETWORKS, Row, Turn, bare, federated, medians
from round import COHORT, bare_rounds

from flash_pl import JMWST


class Moving(JMWST):
    """JMWST from a random mask, without stage 1, which is not part of a round."""

    def __init__(self) -> None:
        super().__init__()
        self.first_stage = None


CONTENDERS: dict[str, dict[str, Any]] = {
    "dense": {"density": 1.0},
    "pdst": {"density": 0.05},
    "pdst, any kernels": {"density": 0.05, "deterministic": False},
    "pdst, bf16-mixed": {"density": 0.05, "precision": "bf16-mixed"},
    "jmwst": {"density": 0.05, "scheduler": Moving},
}


def synchronized(turn: Turn, deterministic: bool) -> Turn:
    """A turn that waits for the GPU at its end. Determinism is a setting of the process, so every turn sets it."""

    def timed() -> None:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        turn()
        torch.cuda.synchronize()

    return timed


def measure(name: str, repeats: int) -> Row:
    """Median milliseconds of a round for every contender."""
    network = NETWORKS[name]
    data = network.images(clients=COHORT)
    loops = {
        key: federated(network, data, cohort=COHORT, accelerator="cuda", **settings)
        for key, settings in CONTENDERS.items()
    }
    turns = {
        format: synchronized(bare_rounds(module, loops["dense"]), False)
        for format, module in bare(network, "cuda").items()
    }
    for key, loop in loops.items():
        turns[key] = synchronized(loop.train_round, CONTENDERS[key].get("deterministic", True))
    times = medians(turns, repeats)
    by_hand = min(times[format] for format in FORMATS)
    return {"network": name, "batches": network.batches, "by hand": by_hand} | {key: times[key] for key in CONTENDERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=9)
    arguments, device = parser.parse_args(), torch.cuda.get_device_name()
    print(f"{device}, PyTorch {torch.__version__}, {COHORT} clients a round, ms; in brackets: times FedAvg by hand\n")
    columns = ["network", "batches a client", "FedAvg by hand", *CONTENDERS]
    print(f"| {' | '.join(columns)} |\n|{len(columns) * '---|'}")
    for name in arguments.networks:
        row = measure(name, arguments.repeats)
        numbers = [f"{row[key]:.0f} ({row[key] / row['by hand']:.2f})" for key in CONTENDERS]
        print(f"| {name} | {row['batches']} | {row['by hand']:.0f} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
