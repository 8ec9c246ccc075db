"""Looks into files of every format that flash_pl writes, and into foreign ones of the same formats."""

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flash_pl.errors import ConfigError, PayloadError
from flash_pl.export.contents import Contents, Row
from flash_pl.export.onnx import missing_packages
from flash_pl.export.safetensors import PARTS
from flash_pl.export.saved_run import SavedRun
from flash_pl.wire import VALUE_TYPES, decode_flash


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
