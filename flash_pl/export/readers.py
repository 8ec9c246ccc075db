"""The contents of .flash, .safetensors, .onnx and .ckpt files as a table: facts, densities and bytes of each tensor.

The files may also come from other programs.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flash_pl.errors import ConfigError, PayloadError, as_yaml
from flash_pl.export.saved_run import SavedRun
from flash_pl.export.writers import SPARSE_PARTS, missing_packages
from flash_pl.wire import VALUE_TYPES, decode_flash


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a file.

    Attributes:
        name: of the tensor.
        shape: of the tensor.
        densities: share of active (or nonzero) weights, one for each of ``Contents.columns``; None without a mask.
        mask: bytes of its mask in the file; None if they cannot be separated from other bytes.
        values: bytes of its values in the file; None if they cannot be separated from other bytes.
        dense: bytes of the dense tensor.
    """

    name: str
    shape: tuple[int, ...]
    densities: tuple[float | None, ...]
    mask: int | None
    values: int | None
    dense: int


@dataclass(frozen=True)
class Contents:
    """The contents of a file.

    Attributes:
        facts: metadata of the file.
        columns: names of the columns with densities.
        rows: the tensors.
        size: length of the file in bytes.
        shared_mask: bytes of a mask section that does not separate layers.
    """

    facts: Mapping[str, str]
    columns: tuple[str, ...]
    rows: tuple[TensorRow, ...]
    size: int
    shared_mask: int = 0

    @property
    def masks(self) -> int:
        """Bytes of all masks."""
        return self.shared_mask + sum(row.mask or 0 for row in self.rows)

    @property
    def values(self) -> int:
        """Bytes of all values."""
        return sum(row.values or 0 for row in self.rows)

    @property
    def dense(self) -> int:
        """Bytes of all tensors, dense."""
        return sum(row.dense for row in self.rows)


def read_contents(path: Path) -> Contents:
    """Return the contents of a .flash, .safetensors, .onnx or .ckpt file.

    Raises:
        ConfigError: another suffix, or a file that is missing, damaged or in another format.
    """
    name = as_yaml(str(path))
    if path.suffix not in READERS:
        raise ConfigError("file", f"the name {name} has an unknown suffix", f"known are {', '.join(READERS)}")
    if not path.is_file():
        raise ConfigError("file", f"{name} is not an existing file")
    try:
        return READERS[path.suffix](path)
    except OSError as error:
        raise ConfigError("file", f"{name} cannot be read ({error.strerror or error})") from error
    except (PayloadError, SafetensorError) as error:
        raise ConfigError("file", f"{name} is not a complete {path.suffix} file ({error})") from error


def _read_flash(path: Path) -> Contents:
    file = decode_flash(path.read_bytes(), limit=math.inf)
    sizes, itemsize = file.sizes, VALUE_TYPES[file.values].itemsize
    rows, active, maskable = [], 0, 0
    for name, sparse in file.masked.items():
        count = len(sparse.positions)
        active, maskable = active + count, maskable + sparse.elements
        density = count / max(1, sparse.elements)
        rows.append(TensorRow(name, sparse.shape, (density,), sparse.mask_bytes, itemsize * count, 4 * sparse.elements))
    for name, tensor in file.tensors.items():
        rows.append(TensorRow(name, tuple(tensor.shape), (None,), None, _flash_bytes(tensor), tensor.nbytes))
    separated = all(sparse.mask_bytes is not None for sparse in file.masked.values())
    mask = "all active" if active == maskable else sizes.kind.name.lower()
    facts = dict(file.facts) | {"mask": mask, "values": file.values}
    return Contents(facts, ("density",), tuple(rows), file.size, 0 if separated else sizes.mask)


def _flash_bytes(tensor: Tensor) -> int:
    """The bytes of an unmasked tensor's values in a .flash file; a bool takes one bit."""
    return -(-tensor.numel() // 8) if tensor.dtype == torch.bool else tensor.nbytes


def _read_safetensors(path: Path) -> Contents:
    with safe_open(path, "pt") as file:
        facts = dict(sorted((file.metadata() or {}).items()))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    layers = _json_keys(facts.pop("layer_density", ""))  # the densities themselves are in the table
    rows, sparse = [], facts.get("layout") == "sparse"
    names = [key.removesuffix(".indices") for key in tensors if sparse and key.endswith(".indices")]
    # A buffer of the network may have such a name too.
    names = [name for name in names if all(f"{name}.{part}" in tensors for part in SPARSE_PARTS)]
    if sparse and (incomplete := [name for name in layers if name not in names]):
        problem = f"{as_yaml(str(path))} lacks a part of the sparse tensor {incomplete[0]}"
        raise ConfigError("file", problem, f"each sparse tensor has the parts {', '.join(SPARSE_PARTS)}")
    for name in names:
        indices, values, sizes = (tensors.pop(f"{name}.{part}") for part in SPARSE_PARTS)
        shape = tuple(sizes.reshape(-1).tolist())
        density, mask = values.numel() / max(1, prod(shape)), indices.nbytes + sizes.nbytes
        rows.append(TensorRow(name, shape, (density,), mask, values.nbytes, prod(shape) * values.itemsize))
    for name, tensor in tensors.items():
        share = None if sparse else _nonzero_share(tensor)
        rows.append(TensorRow(name, tuple(tensor.shape), (share,), None, tensor.nbytes, tensor.nbytes))
    return Contents(facts, ("density" if sparse else "nonzero",), tuple(rows), path.stat().st_size)


def _json_keys(text: str) -> list[str]:
    """The keys of a JSON object; an empty list if the text is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return list(value) if isinstance(value, dict) else []


def _nonzero_share(tensor: Tensor) -> float:
    """The share of elements that are not 0."""
    # torch cannot count the nonzero elements of some short floating types.
    countable = tensor.float() if tensor.is_floating_point() else tensor
    return int(countable.count_nonzero()) / max(1, tensor.numel())


def _read_onnx(path: Path) -> Contents:
    if "onnx" in missing_packages():
        raise ConfigError(
            "file",
            f"{as_yaml(str(path))} needs the package onnx",
            'pip install "flash-pl[onnx]"',
        )
    import onnx  # an optional dependency
    from onnx.numpy_helper import to_array

    try:
        onnx.checker.check_model(str(path))  # given the path, it accepts models above 2 GB
        model = onnx.load(path)
        arrays = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    except Exception as error:  # a damaged file can raise anything in its reader
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError("file", f"{as_yaml(str(path))} is not a complete ONNX model ({reason})") from error
    rows = []
    for name, array in arrays.items():
        share = np.count_nonzero(array) / max(1, array.size)
        rows.append(TensorRow(name, array.shape, (share,), None, array.nbytes, array.nbytes))
    opset = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    facts = {entry.key: entry.value for entry in model.metadata_props} | {"opset": opset}
    return Contents(facts, ("nonzero",), tuple(rows), path.stat().st_size)


def _read_checkpoint(path: Path) -> Contents:
    run = SavedRun(path)
    densities = run.densities
    models = [run.model(density) for density in densities]
    facts = run.facts(models[-1].density)
    layer_densities = [model.densities for model in models]
    rows = [
        TensorRow(
            name,
            tuple(tensor.shape),
            tuple(of_layers.get(name) for of_layers in layer_densities),
            None,
            None,
            tensor.nbytes,
        )
        for name, tensor in models[-1].tensors.items()
    ]
    columns = ("density",) if len(models) == 1 else tuple(f"d = {density:g}" for density in densities)
    return Contents(facts, columns, tuple(rows), path.stat().st_size)


READERS: Mapping[str, Callable[[Path], Contents]] = {
    ".flash": _read_flash,
    ".safetensors": _read_safetensors,
    ".onnx": _read_onnx,
    ".ckpt": _read_checkpoint,
}


def contents_table(contents: Contents, path: Path) -> Group:
    """Return what ``flash-pl inspect`` prints: the facts, a row for each tensor, and a summary of the bytes."""
    facts = Table(box=box.SIMPLE, show_header=False)
    for name, value in contents.facts.items():
        facts.add_row(_plain(name), _plain(value))
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("tensor", overflow="fold")
    table.add_column("shape", no_wrap=True)
    masks = ["mask"] if contents.masks else []
    values = ["values"] if contents.values else []
    for title in [*contents.columns, *masks, *values, "dense"]:
        table.add_column(title, justify="right", no_wrap=True)
    for row in contents.rows:
        densities = ["" if density is None else f"{density:.4f}" for density in row.densities]
        sizes = [row.mask for _ in masks] + [row.values for _ in values] + [row.dense]
        table.add_row(_plain(row.name), "x".join(map(str, row.shape)) or "scalar", *densities, *map(_number, sizes))
    totals = [contents.masks for _ in masks] + [contents.values for _ in values] + [contents.dense]
    table.add_section()
    table.add_row("total", "", *_total_densities(contents), *map(_number, totals))
    return Group(_plain(str(path)), facts, table, _summary(contents))


def _total_densities(contents: Contents) -> list[str]:
    """The density over all tensors that have one, for each column."""
    totals = []
    for column in range(len(contents.columns)):
        entries = [(row.densities[column], prod(row.shape)) for row in contents.rows]
        masked = [(density * size, size) for density, size in entries if density is not None]
        total = sum(size for _, size in masked)
        totals.append(f"{sum(active for active, _ in masked) / total:.4f}" if total else "")
    return totals


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _summary(contents: Contents) -> str:
    if not contents.dense:
        return f"{contents.size:,} bytes without tensors"
    if not contents.values:
        return f"{contents.size:,} bytes, with all that a run needs to continue"
    masks = f"masks {contents.masks:,}, " if contents.masks else ""
    parts = f"{masks}values {contents.values:,}, other {contents.size - contents.masks - contents.values:,}"
    return f"{contents.size:,} bytes, {contents.size / contents.dense:.1%} of dense: {parts}"


MAX_TEXT = 200  # characters


def _plain(text: str) -> Text:
    """A text from an unknown file, shortened, without markup and control characters that the terminal would execute."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:MAX_TEXT])
    return Text(shown + ("..." if len(text) > MAX_TEXT else ""), overflow="fold")
