"""Active weights that nothing depends on: the share of a first mask that training has not changed.

    python benchmarks/idle.py

A weight between units that no other active weight connects has no gradient, whatever the sample, and keeps its first
value to the last bit. Counted are those after three rounds under a fixed mask, of STEAD's layer densities, of FLASH's
stage 1 and uniform ones, Markdown.
"""

import argparse
from itertools import product

from flash_pl.config import build_data, build_module, build_trainer, compose, read_config
from flash_pl.loops import FederatedLoop

ROUNDS = 3
MASKS = {"stead": ("stead", "scheduler.prune_rate=0"), "stage 1": ("spdst",), "uniform": ("pdst",)}


class FirstWeights:
    """Keeps what the active weights were before training."""

    def on_first_mask(self, loop: FederatedLoop) -> None:
        self.mask, self.weights = loop.server.mask.clone(), loop.server.weights.clone()

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        same = (loop.server.weights == self.weights)[: loop.server.layout.maskable]
        self.idle = float((same & self.mask).sum() / self.mask.sum())


def idle(data: str, density: str, config: str, *settings: str) -> float:
    """The share of active weights that are what they were, of one run."""
    given = [f"data={data}", f"density={density}", f"rounds={ROUNDS}", "seed=11", *settings]
    composed = compose(read_config(config), [*given, "trainer.accelerator=cpu", "trainer.threads=1"])
    seen, samples = FirstWeights(), build_data(composed)
    build_trainer(composed, [seen]).fit(build_module(composed, samples), samples)
    return seen.idle


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"| data | d | {' | '.join(MASKS)} |\n|---|---|{'---|' * len(MASKS)}")
    for data, density in product(("digits", "fashion_mnist"), ("0.1", "0.05", "0.02", "0.01", "0.005")):
        shares = [f"{100 * idle(data, density, *settings):.0f} %" for settings in MASKS.values()]
        print(f"| {data} | {density} | {' | '.join(shares)} |", flush=True)
