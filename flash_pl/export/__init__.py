"""Trained models for other programs: out of a checkpoint, into files, and what is in a file."""

from flash_pl.export.readers import Contents, Row, contents_table, read_contents
from flash_pl.export.saved_run import SavedRun, build_network
from flash_pl.export.writers import BATCHES, missing_packages, to_onnx, to_safetensors

__all__ = [
    "BATCHES",
    "Contents",
    "Row",
    "SavedRun",
    "build_network",
    "contents_table",
    "missing_packages",
    "read_contents",
    "to_onnx",
    "to_safetensors",
]
