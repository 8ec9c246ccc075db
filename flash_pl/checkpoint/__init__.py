"""Checkpoint files: whole or refused."""

from flash_pl.checkpoint.archive import SCHEMA, read_checkpoint, write_checkpoint
from flash_pl.checkpoint.folder import CheckpointFolder
from flash_pl.checkpoint.start import LAST, starting_point
from flash_pl.checkpoint.whole import write_whole

__all__ = [
    "LAST",
    "SCHEMA",
    "CheckpointFolder",
    "read_checkpoint",
    "starting_point",
    "write_checkpoint",
    "write_whole",
]
