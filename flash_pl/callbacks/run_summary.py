"""The block of facts that a run prints before its first round."""

import sys
from pathlib import Path
from statistics import median

import torch
from lightning.fabric.utilities import rank_zero_only
from rich.console import Console

from flash_pl.callbacks.base import Callback
from flash_pl.client import Classifier
from flash_pl.lines import aligned
from flash_pl.loops import FederatedLoop
from flash_pl.units import counted, percent


class RunSummary(Callback):
    """Prints what is going to be trained, on stderr (in a notebook on stdout), before the first round.

    Args:
        directory: where the run writes; None leaves the line out.

    >>> from torch import nn
    >>> from flash_pl import PDST, Classifier, FederatedTrainer
    >>> from flash_pl.callbacks.run_summary import summary
    >>> from flash_pl.data import IID, Synthetic
    >>> settings = {"rounds": 2, "cohort": 2, "backend": "dense", "accelerator": "cpu"}
    >>> trainer = FederatedTrainer(PDST(), density=0.1, **settings, callbacks=[RunSummary("runs/first")])
    >>> module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), classes=10)
    >>> loop = trainer.fit(module, Synthetic(samples=200, clients=4, partition=IID()))
    >>> for name, text in summary(loop).items():
    ...     print(name, text, sep=": ")
    data: Synthetic, 4 clients with 50 samples each
    model: Sequential, 7,850 parameters, 7,840 maskable (99.9 %), 784 active
    scheduler: PDST, density 0.1
    training: 2 rounds x 2 clients x 1 local epoch, 2 rounds are done
    device: cpu, 1 process, dense kernels, 32-true
    """

    def __init__(self, directory: str | Path | None = None) -> None:
        self.directory = directory

    @rank_zero_only
    def on_run_start(self, loop: FederatedLoop) -> None:
        facts = summary(loop)
        if self.directory is not None:
            facts["directory"] = str(self.directory)
        console = Console(file=sys.stderr)
        room = console.width - 1 if console.file.isatty() else None
        for line in aligned(facts, room):
            # A notebook shows stderr in red.
            print(line, file=sys.stdout if console.is_jupyter else sys.stderr, flush=True)


def summary(loop: FederatedLoop) -> dict[str, str]:
    """Return the facts about a run, each with its name, as they are before the next round."""
    module, plan = loop.client.module, loop.plan
    network = module.model if isinstance(module, Classifier) else module
    rounds = f"{counted(plan.rounds, 'round')} x {counted(plan.cohort, 'client')}"
    rounds += f" x {counted(plan.local_epochs, 'local epoch')}"
    if loop.round:
        rounds += f", {counted(loop.round, 'round')} {'is' if loop.round == 1 else 'are'} done"
    device = str(loop.fabric.device)
    if loop.fabric.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(loop.fabric.device)})"
    processes = f"{loop.ranks.size} process{'es' if loop.ranks.size > 1 else ''}"
    return {
        "data": f"{type(loop.data).__name__}, {_clients(plan.population.samples)}",
        "model": f"{_class_name(network)}, {_weights(loop)}",
        "scheduler": f"{type(loop.scheduler).__name__}{_densities(loop)}",
        "training": rounds,
        "device": f"{device}, {processes}, {loop.client.backend.name}, {loop.fabric.strategy.precision.precision}",
    }


def _class_name(module: torch.nn.Module) -> str:
    return getattr(module, "_user_class", type(module)).__name__


def _clients(samples: tuple[int, ...]) -> str:
    """
    >>> _clients((3, 10, 5)), _clients((4, 4))
    ('3 clients with 3 to 10 samples (median 5)', '2 clients with 4 samples each')
    """
    smallest, largest, clients = min(samples), max(samples), counted(len(samples), "client")
    if smallest == largest:
        return f"{clients} with {counted(largest, 'sample')} each"
    return f"{clients} with {smallest:,} to {largest:,} samples (median {round(median(samples)):,})"


def _weights(loop: FederatedLoop) -> str:
    layout, maskable = loop.server.layout, loop.server.layout.maskable
    parameters = sum(parameter.numel() for parameter in loop.client.module.parameters())
    facts = f"{parameters:,} parameters, {maskable:,} maskable ({percent(maskable / parameters)})"
    if loop.has_mask:
        active: float = int(loop.server.mask.count_nonzero())
    elif not loop.scheduler.has_target:
        active = maskable
    elif loop.density_of == "flops":
        return facts  # the distribution decides how many weights the multiply-adds buy
    else:
        active = layout.budget(loop.plan.budget.density)
    return f"{facts}, {active:,.0f} active"


def _densities(loop: FederatedLoop) -> str:
    tiers = [f"{tier.density:g}" for tier in loop.plan.budget.tiers]
    if not loop.scheduler.has_target:
        return ""
    unit = " of the maskable layers' FLOPs" if loop.density_of == "flops" else ""
    return f", density {tiers[-1]}{unit}" if len(tiers) == 1 else f", densities {', '.join(tiers)}{unit} of its tiers"
