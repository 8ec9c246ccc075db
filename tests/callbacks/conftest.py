"""A trainer with the callbacks of a run directory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flash_pl import PDST, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint, Loggers, MetricsCSV, ProgressBar, TensorBoard


@pytest.fixture
def make_trainer() -> Callable[..., FederatedTrainer]:
    """Returns ``make(folder, scheduler, rounds, more, **settings)``; ``more`` are further callbacks."""

    def make(folder: Path, scheduler=None, rounds: int = 3, more: tuple[Callback, ...] = (), **settings: Any):
        checkpoint = Checkpoint(folder, every=2, extra={"note": "x"})
        callbacks = [MetricsCSV(folder), checkpoint, Loggers(), TensorBoard(), ProgressBar(), *more]
        settings = {"density": 0.2, "rounds": rounds, "cohort": 2, "accelerator": "cpu"} | settings
        return FederatedTrainer(scheduler or PDST(), callbacks=callbacks, **settings)

    return make
