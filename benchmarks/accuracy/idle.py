"""Idle weights: the share of a first mask's weights that training does not change.

    python benchmarks/accuracy/idle.py    # a Markdown table

A weight between units that no other active weight connects has no gradient for any sample, so it keeps its initial
value to the last bit. This script counts these weights after three rounds under a fixed mask, for the layer densities
of STEAD, for those of FLASH's stage 1, and for uniform ones.
"""

import argparse
from itertools import product

from flash_pl.callbacks import Callback
from flash_pl.config import build_data, build_module, build_trainer, compose, read_config
from flash_pl.loops import FederatedLoop

ROUNDS = 3
MASKS = {"stead": ("stead", "scheduler.prune_rate=0"), "stage 1": ("spdst",), "uniform": ("pdst",)}


class IdleWeights(Callback):
    """Keeps the initial weights and counts the active ones that still have their initial value."""

    def on_first_mask(self, loop: FederatedLoop) -> None:
        self.mask, self.weights = loop.server.mask.clone(), loop.server.weights.clone()

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        unchanged = (loop.server.weights == self.weights)[: loop.server.layout.maskable]
        self.share = float((unchanged & self.mask).sum() / self.mask.sum())


def idle_share(data: str, density: str, config: str, *settings: str) -> float:
    """The share of active weights that a run leaves unchanged."""
    overrides = [f"data={data}", f"density={density}", f"rounds={ROUNDS}", "seed=11", *settings]
    resolved = compose(read_config(config), [*overrides, "trainer.accelerator=cpu", "trainer.threads=1"])
    idle, samples = IdleWeights(), build_data(resolved)
    build_trainer(resolved, [idle]).fit(build_module(resolved, samples), samples)
    return idle.share


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"| data | d | {' | '.join(MASKS)} |\n|---|---|{'---|' * len(MASKS)}")
    for data, density in product(("digits", "fashion_mnist"), ("0.1", "0.05", "0.02", "0.01", "0.005")):
        shares = [f"{100 * idle_share(data, density, *settings):.0f} %" for settings in MASKS.values()]
        print(f"| {data} | {density} | {' | '.join(shares)} |", flush=True)
