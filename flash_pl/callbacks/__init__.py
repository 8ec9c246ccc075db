"""What watches a run: checkpoints, metrics.csv, loggers, progress. None of it changes a result."""

from flash_pl.callbacks.base import Callback, in_order
from flash_pl.callbacks.checkpoint import Checkpoint
from flash_pl.callbacks.csv import ConsensusCSV, History, MetricsCSV
from flash_pl.callbacks.progress import FaultLog, ProgressBar
from flash_pl.callbacks.tensorboard import Board

__all__ = [
    "Board",
    "Callback",
    "Checkpoint",
    "ConsensusCSV",
    "FaultLog",
    "History",
    "MetricsCSV",
    "ProgressBar",
    "in_order",
]
