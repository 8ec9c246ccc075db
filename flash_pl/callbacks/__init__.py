"""What watches a run: checkpoints, metrics.csv, loggers, progress. None of it changes a result."""

from flash_pl.callbacks.board import Board
from flash_pl.callbacks.checkpoint import Checkpoint
from flash_pl.callbacks.consensus_csv import ConsensusCSV
from flash_pl.callbacks.faults import FaultLog
from flash_pl.callbacks.history import History
from flash_pl.callbacks.metrics_csv import MetricsCSV
from flash_pl.callbacks.order import in_order
from flash_pl.callbacks.progress import ProgressBar

__all__ = ["Board", "Checkpoint", "ConsensusCSV", "FaultLog", "History", "MetricsCSV", "ProgressBar", "in_order"]
