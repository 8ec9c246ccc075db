"""Trained models for other programs: out of a checkpoint, into files, and what is in a file."""

from flash_pl.export.contents import Contents, Row
from flash_pl.export.network import build_network
from flash_pl.export.onnx import BATCHES, missing_packages, to_onnx
from flash_pl.export.readers import read_contents
from flash_pl.export.safetensors import to_safetensors
from flash_pl.export.saved_run import SavedRun
from flash_pl.export.table import contents_table

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
