"""A small federation that trains in a fraction of a second."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flash_pl.callbacks import Checkpoint
from flash_pl.client import Classifier
from flash_pl.data import Dirichlet, Synthetic
from flash_pl.loops import FederatedLoop
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import preserve_global_rng, seed_global_rng_
from flash_pl.trainer import FederatedTrainer

CLIENTS, COHORT, ROUNDS = 6, 3, 4


class Network(nn.Module):
    """Two convolutions, a batch norm and two linear layers for images 8x8 of four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2)
        self.fc1, self.fc2 = nn.Linear(32, 16), nn.Linear(16, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``[B, 1, 8, 8]`` -> ``[B, 4]``."""
        features = torch.relu(self.norm(self.conv1(images)))
        features = torch.relu(self.conv2(features)).flatten(1)
        return self.fc2(torch.relu(self.fc1(features)))


def train(
    scheduler: SparseScheduler,
    density: float,
    rounds: int = ROUNDS,
    *,
    callbacks: Sequence[Any] = (),
    checkpoint: Path | None = None,
    resume: bool = False,
    trainer_class: Callable[..., FederatedTrainer] = FederatedTrainer,
    accelerator: str = "cpu",
    **settings: Any,
) -> FederatedLoop:
    """A run of ``rounds`` rounds; the same arguments give the same bits.

    Args:
        scheduler: the sparse scheduler.
        density: d.
        rounds: R.
        callbacks: of the trainer.
        checkpoint: folder of the checkpoints, from which the run goes on if ``resume``.
        resume: go on from ``checkpoint``.
        trainer_class: makes the trainer.
        accelerator: where it trains.
        settings: further ones of ``FederatedTrainer``.
    """
    callbacks = [*callbacks, *([Checkpoint(checkpoint)] if checkpoint and not resume else [])]
    trainer = trainer_class(
        scheduler,
        density=density,
        rounds=rounds,
        cohort=COHORT,
        seed=3,
        accelerator=accelerator,
        exclude_first_last=True,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    data = Synthetic(
        samples=120,
        test_samples=20,
        classes=4,
        shape=(1, 8, 8),
        clients=CLIENTS,
        partition=Dirichlet(1.0),
        batch_size=8,
        seed=1,
    )
    device = trainer.fabric.device
    with preserve_global_rng(device):
        seed_global_rng_(5, device)
        module = Classifier(Network(), classes=4, lr=1.0)
        if resume:
            assert checkpoint is not None
            return trainer.fit(module, data, ckpt_path=checkpoint / "last.ckpt")
        return trainer.fit(module, data)
