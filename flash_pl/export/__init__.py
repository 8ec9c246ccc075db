"""Trained models for other programs: read from a checkpoint, written to files, and the contents of such files."""

from flash_pl.export.contents import Contents, TensorRow, contents_table
from flash_pl.export.readers import read_contents
from flash_pl.export.saved_run import SavedRun, build_network
from flash_pl.export.writers import BATCH_SIZES, missing_packages, to_onnx, to_safetensors

__all__ = [
    "BATCH_SIZES",
    "Contents",
    "SavedRun",
    "TensorRow",
    "build_network",
    "contents_table",
    "missing_packages",
    "read_contents",
    "to_onnx",
    "to_safetensors",
]
