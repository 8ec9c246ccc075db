"""flash_pl: federated sparse training with PyTorch Lightning. Its names are imported when they are first used."""

import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"  # first: modules import it

# Before this import ends, nothing can handle Ctrl-C, so it is short.
if "FLASH_PL_PARENT" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
    import flash_pl.parent  # noqa: F401  # starts its watch before torch is imported

from flash_pl.lazy import names_on_demand

if TYPE_CHECKING:
    from flash_pl.client import Classifier, ClientModule, federate
    from flash_pl.errors import ConfigError, DataNotFoundError, ModuleError
    from flash_pl.loops import EvaluationSchedule, RoundDecay
    from flash_pl.schedulers import JMWST, NST, PDST, SPDST, Dense, SparseScheduler
    from flash_pl.trainer import FederatedTrainer
else:
    __getattr__, __dir__ = names_on_demand(__name__)

__all__ = [
    "JMWST",
    "NST",
    "PDST",
    "SPDST",
    "Classifier",
    "ClientModule",
    "ConfigError",
    "DataNotFoundError",
    "Dense",
    "EvaluationSchedule",
    "FederatedTrainer",
    "ModuleError",
    "RoundDecay",
    "SparseScheduler",
    "federate",
]
