"""Looks into files of every format that flash_pl writes, and into foreign ones of the same formats."""

import json
from collections.abc import Callable, Mapping, Sequence
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

from flash_pl.errors import ConfigError, PayloadError
from flash_pl.export.saved_run import SavedRun
from flash_pl.export.writers import PARTS, missing_packages
from flash_pl.wire import VALUE_TYPES, decode_flash


@dataclass(frozen=True)
class Row:
    """One tensor.

    ``densities`` are its shares of active weights, one for each of the columns, or None where it has no mask. ``mask``
    and ``values`` are its bytes in the file, None where they cannot be told apart from others'; ``dense`` are those of
    the tensor written out.
    """

    name: str
    shape: tuple[int, ...]
    densities: tuple[float | None, ...]
    mask: int | None
    values: int | None
    dense: int


@dataclass(frozen=True)
class Contents:
    """A file.

    Attributes:
        facts: about the whole.
        columns: names of the densities.
        rows: the tensors.
        size: bytes of the file.
        shared_mask: bytes of a mask section that cannot be told apart by layers.
    """

    facts: Mapping[str, str]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    size: int
    shared_mask: int = 0

    @property
    def masks(self) -> int:
        """Bytes that say which weights are active."""
        return self.shared_mask + sum(row.mask or 0 for row in self.rows)

    @property
    def values(self) -> int:
        """Bytes of values."""
        return sum(row.values or 0 for row in self.rows)

    @property
    def dense(self) -> int:
        """Bytes of all tensors written out."""
        return sum(row.dense for row in self.rows)


def read_contents(path: Path) -> Contents:
    """The contents of a .flash, .safetensors, .onnx or .ckpt file.

    Raises:
        ConfigError: another suffix, or a file that is missing, torn or foreign.
    """
    if path.suffix not in READERS:
        raise ConfigError("file", str(path), f"a file that ends in one of {', '.join(READERS)}")
    if not path.is_file():
        raise ConfigError("file", str(path), "a file that exists")
    try:
        return READERS[path.suffix](path)
    except OSError as error:
        raise ConfigError("file", str(path), f"a file that can be read ({error.strerror or error})") from error
    except (PayloadError, SafetensorError) as error:
        raise ConfigError("file", str(path), f"a whole {path.suffix} file ({error})") from error


def _flash(path: Path) -> Contents:
    file = decode_flash(path.read_bytes())
    model, sizes, item = file.model, file.sizes, VALUE_TYPES[file.values].itemsize
    densities, mask_bytes = model.densities, file.layer_bytes()
    rows = [
        Row(
            name,
            tuple(tensor.shape),
            (densities.get(name),),
            mask_bytes.get(name),
            item * int(model.masks[name].count_nonzero()) if name in model.masks else _written(tensor),
            tensor.nbytes,
        )
        for name, tensor in model.tensors.items()
    ]
    mask = "all active" if model.active == model.maskable else sizes.kind.name.lower()
    facts = model.facts | {"mask": mask, "values": file.values}
    return Contents(facts, ("density",), tuple(rows), file.size, 0 if mask_bytes else sizes.mask)


def _written(tensor: Tensor) -> int:
    """The bytes of its values in a .flash file, where truth values are bits."""
    return -(-tensor.numel() // 8) if tensor.dtype == torch.bool else tensor.nbytes


def _safetensors(path: Path) -> Contents:
    with safe_open(path, "pt") as file:
        facts = dict(sorted((file.metadata() or {}).items()))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    layers = _names(facts.pop("layer_density", ""))  # the table has the densities
    rows, sparse = [], facts.get("layout") == "sparse"
    names = [key.removesuffix(".indices") for key in tensors if sparse and key.endswith(".indices")]
    names = [name for name in names if all(f"{name}.{part}" in tensors for part in PARTS)]  # a buffer may end so too
    if sparse and (torn := [name for name in layers if name not in names]):
        raise ConfigError("file", str(path), f"of each sparse tensor {', '.join(PARTS)}; see {torn[0]}")
    for name in names:
        indices, values, sizes = (tensors.pop(f"{name}.{part}") for part in PARTS)
        shape = tuple(sizes.reshape(-1).tolist())
        density, mask = values.numel() / max(1, prod(shape)), indices.nbytes + sizes.nbytes
        rows.append(Row(name, shape, (density,), mask, values.nbytes, prod(shape) * values.itemsize))
    for name, tensor in tensors.items():
        share = None if sparse else _nonzero(tensor)
        rows.append(Row(name, tuple(tensor.shape), (share,), None, tensor.nbytes, tensor.nbytes))
    return Contents(facts, ("density" if sparse else "nonzero",), tuple(rows), path.stat().st_size)


def _names(text: str) -> list[str]:
    """The keys of a JSON object; none of any other text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return list(found) if isinstance(found, dict) else []


def _onnx(path: Path) -> Contents:
    if "onnx" in missing_packages():
        raise ConfigError("file", str(path), 'an installation with onnx: pip install "flash-pl[onnx]"')
    import onnx  # an optional dependency
    from onnx.numpy_helper import to_array

    try:
        onnx.checker.check_model(str(path))  # by its path it may be larger than 2 GB
        model = onnx.load(path)
        arrays = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    except Exception as error:  # a damaged file can break its reader in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError("file", str(path), f"a whole ONNX model ({reason})") from error
    rows = []
    for name, array in arrays.items():
        density = np.count_nonzero(array) / max(1, array.size)
        rows.append(Row(name, array.shape, (density,), None, array.nbytes, array.nbytes))
    opset = ", ".join(f"{one.domain or 'ai.onnx'} {one.version}" for one in model.opset_import)
    facts = {entry.key: entry.value for entry in model.metadata_props} | {"opset": opset}
    return Contents(facts, ("nonzero",), tuple(rows), path.stat().st_size)


def _checkpoint(path: Path) -> Contents:
    run = SavedRun(path)
    models = [run.model(density) for density in run.densities]
    facts = run.facts(models[-1].density)
    rows = [
        Row(name, tuple(tensor.shape), tuple(model.densities.get(name) for model in models), None, None, tensor.nbytes)
        for name, tensor in models[-1].tensors.items()
    ]
    columns = ("density",) if len(models) == 1 else tuple(f"d = {density:g}" for density in run.densities)
    return Contents(facts, columns, tuple(rows), path.stat().st_size)


def _nonzero(tensor: Tensor) -> float:
    """The share of elements that are not 0."""
    whole = tensor.float() if tensor.is_floating_point() else tensor  # torch counts only some short types
    return int(whole.count_nonzero()) / max(1, tensor.numel())


READERS: Mapping[str, Callable[[Path], Contents]] = {
    ".flash": _flash,
    ".safetensors": _safetensors,
    ".onnx": _onnx,
    ".ckpt": _checkpoint,
}


LONGEST = 200  # characters of a fact


def contents_table(contents: Contents, path: Path) -> Group:
    """The facts, a line for each tensor, and where the bytes of the file go."""
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
        shares = ["" if density is None else f"{density:.4f}" for density in row.densities]
        sizes = [row.mask for _ in masks] + [row.values for _ in values] + [row.dense]
        table.add_row(_plain(row.name), "x".join(map(str, row.shape)) or "scalar", *shares, *map(_count, sizes))
    totals = [contents.masks for _ in masks] + [contents.values for _ in values] + [contents.dense]
    table.add_section()
    table.add_row("total", "", *_overall(contents.rows, len(contents.columns)), *map(_count, totals))
    return Group(_plain(str(path)), facts, table, _end(contents))


def _end(contents: Contents) -> str:
    if not contents.dense:
        return f"{contents.size:,} bytes without tensors"
    if not contents.values:
        return f"{contents.size:,} bytes with all that a run needs to go on"
    masks = f"masks {contents.masks:,}, " if contents.masks else ""
    parts = f"{masks}values {contents.values:,}, other {contents.size - contents.masks - contents.values:,}"
    return f"{contents.size:,} bytes, {contents.size / contents.dense:.1%} of dense: {parts}"


def _overall(rows: Sequence[Row], columns: int) -> list[str]:
    """The density over all tensors that have one, for each column."""
    found = []
    for column in range(columns):
        known = [(row.densities[column], prod(row.shape)) for row in rows]
        parts = [(density * size, size) for density, size in known if density is not None]
        total = sum(size for _, size in parts)
        found.append(f"{sum(active for active, _ in parts) / total:.4f}" if total else "")
    return found


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _plain(text: str) -> Text:
    """Text from a file that anybody may have written: no markup, nothing that a terminal would obey."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:LONGEST])
    return Text(shown + ("..." if len(text) > LONGEST else ""), overflow="fold")
