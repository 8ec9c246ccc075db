"""Callbacks watch a run: checkpoints, CSV files, loggers, progress. They do not change the model."""

from flash_pl.callbacks.base import Callback
from flash_pl.callbacks.checkpoint import Checkpoint
from flash_pl.callbacks.csv import ConsensusCSV, History, MetricsCSV
from flash_pl.callbacks.early_stopping import EarlyStopping
from flash_pl.callbacks.error_log import ErrorLog
from flash_pl.callbacks.loggers import Loggers
from flash_pl.callbacks.progress import ProgressBar, ProgressLines
from flash_pl.callbacks.run_summary import RunSummary
from flash_pl.callbacks.tensorboard import TensorBoard

__all__ = [
    "Callback",
    "Checkpoint",
    "ConsensusCSV",
    "EarlyStopping",
    "ErrorLog",
    "History",
    "Loggers",
    "MetricsCSV",
    "ProgressBar",
    "ProgressLines",
    "RunSummary",
    "TensorBoard",
]
