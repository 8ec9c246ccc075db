"""The trainings of deep.py: their settings, their order, and the learning rate of each network."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean

from study import DIVERGED, MayDiverge, Row

NORMS, SEEDS = ("batch", "group"), ("1", "2", "3")
RATES = {  # the search space of each network; with group norm PDST is best at the lowest rate of the other space
    "batch": ("0.01", "0.03", "0.1", "0.3"),
    "group": ("0.003", "0.01", "0.03", "0.1"),
}
SEARCHED = (("pdst", "0.05"), ("dense", "1"))  # methods and densities whose mean chooses the rate
SCALED_SEARCHED = (("pdst_scaled", "0.05"), ("dense", "1"))  # and that of runs whose initial weights are all scaled
ALSO_SEARCHED = (("stead", "0.05"), ("stead_scaled", "0.05"))  # to see whether a method wants another rate
METHODS = ("nst", "pdst", "spdst", "jmwst", "stead", "fiarse", "ssfl")
SCALED = ("nst", "pdst", "spdst", "jmwst", "stead")
CONFIGS = {  # what follows ``flash-pl fit`` if it is not the name of the method
    # One mask for all budgets of 0.5 d, 0.75 d and d against the smallest budget for all, with the average of tiers.
    "hetero_jmwst": "hetero_jmwst",
    "smallest_jmwst": "jmwst aggregator=masked",
    # The budget in FLOPs instead of weights. PDST needs no such run: all its layers have the same density.
    "spdst_flops": "spdst density_of=flops",
    "jmwst_flops": "jmwst density_of=flops",
    "stead_flops": "stead density_of=flops",
    # Other layer densities of a mask that never moves, and a stage 1 of a tenth of the work.
    "pdst_erk": "pdst scheduler.first_mask.distribution=erk",
    "pdst_equal": "pdst scheduler.first_mask.distribution=by_size",
    "spdst_short": "spdst scheduler.sensitivity.epochs=2 scheduler.sensitivity.init_fraction=0.05",
    # STEAD's server momentum and mean over rounds in other methods, and STEAD without them.
    "pdst_averaged": "pdst server_optimizer=momentum round_average=polynomial",
    "spdst_averaged": "spdst server_optimizer=momentum round_average=polynomial",
    "jmwst_averaged": "jmwst server_optimizer=momentum round_average=polynomial",
    "stead_plain": "stead server_optimizer=null round_average=null",
    # Initial weights scaled in all layers, also in those that a normalization follows.
    **{f"{name}_scaled": f"{name} scheduler.first_mask.initialize.skip_scale_invariant=false" for name in SCALED},
}
SCALE = {
    "data": "padded.PaddedFashionMNIST",
    "data.partition": "dirichlet",
    "data.train_samples": "12800",
    "data.test_samples": "3000",
    "model": "resnet18",
    "clients": "100",
    "cohort": "5",
    "rounds": "100",
    "trainer.eval_every": "20",
    "trainer.eval_last": "5",
    "trainer.accelerator": "cpu",
    "trainer.threads": "1",
    "trainer.progress": "false",
}
HELD_OUT = {"rounds": "20", "trainer.eval_every": "20", "data.validation": "0.125"}  # the scale of the search
KEY = ("norm", "alpha", "method", "density", "seed", "lr")  # the columns that name a run


@dataclass(frozen=True)
class Cell(MayDiverge):
    """One training; ``lr`` is the learning rate of the first round, ``scale`` keys of the config for all cells."""

    norm: str
    alpha: str
    method: str
    density: str
    seed: str
    lr: str
    scale: Mapping[str, str]

    @property
    def key(self) -> tuple[str, ...]:
        return self.norm, self.alpha, self.method, self.density, self.seed, self.lr

    def directory(self, out: Path) -> Path:
        return out / f"{self.norm}-alpha{self.alpha}-{self.method}-d{self.density}-s{self.seed}-lr{self.lr}"

    def command(self, out: Path) -> list[str]:
        config, *settings = CONFIGS.get(self.method, self.method).split()
        settings += [f"{key}={value}" for key, value in self.scale.items()]
        settings += [f"model.norm={self.norm}", f"alpha={self.alpha}", f"seed={self.seed}", f"lr={self.lr}"]
        settings += [] if self.method == "dense" else [f"density={self.density}"]
        settings += [f"run_dir={self.directory(out)}", "ckpt_path=last"]
        return [sys.executable, "-m", "flash_pl", "fit", config, *settings]


def cells(searched: Sequence[Row], seeds: Sequence[str], scale: Mapping[str, str]) -> Iterator[Cell]:
    """The cells of the networks whose rate is known in the order of their priority.

    Dense training, which takes longest, has the first seed only.
    """
    all_methods = (*((method, "0.05") for method in METHODS), ("dense", "1"))
    sparser = tuple((method, "0.01") for method in METHODS)
    flops = tuple((f"{method}_flops", "0.05") for method in ("spdst", "jmwst", "stead"))
    layers = ("pdst_erk", "0.05"), ("pdst_equal", "0.05"), ("spdst_short", "0.05")
    averages = tuple((f"{method}_averaged", "0.05") for method in ("pdst", "spdst", "jmwst"))
    averages += (("stead_plain", "0.05"),)
    sparser_averages = tuple((method, "0.01") for method, _ in averages[:2])
    budgets = ("hetero_jmwst", "0.05"), ("smallest_jmwst", "0.025")
    scaled = tuple((f"{method}_scaled", "0.05") for method in SCALED)
    single = all_methods, flops, layers, averages, sparser, sparser_averages, budgets, scaled
    blocks = [("batch", "1", block) for block in single]
    blocks += [("batch", "0.1", block) for block in (all_methods, averages[:2], sparser)]
    blocks += [("group", alpha, block) for alpha in ("1", "0.1") for block in (all_methods, averages[:1], sparser)]
    plain, after_scaling = chosen_rates(searched), chosen_rates(searched, SCALED_SEARCHED)
    for (norm, alpha, block), seed in product(blocks, seeds):
        for method, density in block:
            rates = after_scaling if method.endswith("_scaled") else plain
            if norm in rates and (method != "dense" or seed == seeds[0]):
                yield Cell(norm, alpha, method, density, seed, rates[norm], scale)


def search_cells(scale: Mapping[str, str]) -> Iterator[Cell]:
    """The trainings of the search, one network after the other."""
    for norm, (method, density) in product(NORMS, dict.fromkeys(SEARCHED + SCALED_SEARCHED + ALSO_SEARCHED)):
        for lr in RATES[norm]:
            yield Cell(norm, "1", method, density, "11", lr, scale)


def chosen_rates(searched: Iterable[Row], methods: Sequence[tuple[str, str]] = SEARCHED) -> dict[str, str]:
    """The learning rate of each network whose search is complete. A diverged run counts as 0 %."""
    accuracies: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in searched:
        if row["method"] in dict(methods):
            accuracies[row["norm"], row["lr"]].append(0.0 if row["accuracy"] == DIVERGED else float(row["accuracy"]))
    complete = [norm for norm in NORMS if all(len(accuracies[norm, lr]) == len(methods) for lr in RATES[norm])]
    return {norm: max(RATES[norm], key=lambda lr: fmean(accuracies[norm, lr])) for norm in complete}
