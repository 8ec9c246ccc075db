"""How much memory do the masks of many clients take, in blocks and with one allocation per mask?

    python benchmarks/speed/mask_memory.py

Each contender runs in its own process, twice, interleaved. A line gives the resident memory (MiB) that the masks add
after all clients, and after each of five rounds in which a tenth of the clients replace their masks.
"""

import argparse
import gc
import subprocess
import sys

import numpy as np
import torch

from flash_pl.sparsity import MaskStore, pack_bits

CLIENTS, WEIGHTS, ROUNDS = 300, 11_000_000, 5


class OneAllocationPerMask:
    """The contender: a dictionary of packed masks."""

    def __init__(self) -> None:
        self.masks: dict[int, np.ndarray] = {}

    def put(self, client: int, mask: torch.Tensor) -> None:
        self.masks[client] = pack_bits(mask).numpy()


STORES = {"blocks": MaskStore, "allocations": OneAllocationPerMask}


def resident() -> float:
    """Resident memory of this process in MiB (Linux)."""
    gc.collect()
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def measure(name: str) -> None:
    """Print the memory of one contender."""
    start, store, seed = resident(), STORES[name](), 0

    def mask(number: int) -> torch.Tensor:
        return torch.rand(WEIGHTS, generator=torch.Generator().manual_seed(number)) < 0.05

    memory = []
    for clients in [range(CLIENTS), *[torch.randperm(CLIENTS)[: CLIENTS // 10].tolist() for _ in range(ROUNDS)]]:
        for client in clients:
            store.put(client, mask(seed))
            seed += 1
        memory.append(resident() - start)
    print(f"{name:<12}", *(f"{value:6.0f}" for value in memory), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", choices=STORES, help="measure this contender only, in this process")
    options = parser.parse_args()
    if options.store:
        measure(options.store)
    else:
        print(f"one bit per weight: {CLIENTS * WEIGHTS / 8 / 2**20:.0f} MiB")
        for name in (*STORES, *STORES):
            subprocess.run([sys.executable, __file__, name], check=True)
