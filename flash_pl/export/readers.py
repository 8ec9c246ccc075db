"""Readers of .flash, .safetensors, .onnx and .ckpt files, from flash_pl or from other programs.

A file may be a stranger's: a reader takes memory for the bytes of the file, and not for what the file says of itself.
"""

import json
import math
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flash_pl.checkpoint import checkpoint_file
from flash_pl.errors import ConfigError, PayloadError, as_yaml
from flash_pl.export.contents import MAX_TEXT, Contents, TensorRow, plain_text
from flash_pl.export.saved_run import SavedRun
from flash_pl.export.writers import SPARSE_PARTS, missing_packages
from flash_pl.wire import VALUE_TYPES, decode_flash
from flash_pl.wire.extra import MAX_DIMENSIONS


def read_contents(path: Path) -> Contents:
    """Return the contents of a .flash, .safetensors, .onnx or .ckpt file, or of a run directory's checkpoint.

    Raises:
        ConfigError: another suffix, or a file that is missing, damaged or in another format.
    """
    path = checkpoint_file(path)
    name = as_yaml(str(path))
    if not path.is_file():
        raise ConfigError("file", f"{name} is not an existing file", "give a file with a model, or a run directory")
    if path.suffix not in READERS:
        raise ConfigError("file", f"the name {name} has an unknown suffix", f"known are {', '.join(READERS)}")
    try:
        return READERS[path.suffix](path)
    except OSError as error:
        raise ConfigError("file", f"{name} cannot be read ({error.strerror or error})") from error
    except (PayloadError, SafetensorError) as error:
        reason = plain_text(" ".join(str(error).split()))  # it may quote names in the file
        raise ConfigError("file", f"{name} is not a complete {path.suffix} file ({reason})") from error


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
        problem = f"{as_yaml(str(path))} lacks a part of the sparse tensor {as_yaml(incomplete[0][:MAX_TEXT])}"
        raise ConfigError("file", problem, f"each sparse tensor has the parts {', '.join(SPARSE_PARTS)}")
    for name in names:
        indices, values, sizes = (tensors.pop(f"{name}.{part}") for part in SPARSE_PARTS)
        try:
            shape = _sparse_shape(indices, values, sizes)
        except ValueError as error:
            problem = f"the parts of {as_yaml(name[:MAX_TEXT])} in {as_yaml(str(path))} do not fit: {error}"
            raise ConfigError("file", problem) from error
        density, mask = values.numel() / max(1, prod(shape)), indices.nbytes + sizes.nbytes
        rows.append(TensorRow(name, shape, (density,), mask, values.nbytes, prod(shape) * values.itemsize))
    for name, tensor in tensors.items():
        share = None if sparse else _nonzero_share(tensor)
        rows.append(TensorRow(name, tuple(tensor.shape), (share,), None, tensor.nbytes, tensor.nbytes))
    return Contents(facts, ("density" if sparse else "nonzero",), tuple(rows), path.stat().st_size)


def _sparse_shape(indices: Tensor, values: Tensor, sizes: Tensor) -> tuple[int, ...]:
    """The shape of a sparse tensor, given its three parts.

    Raises:
        ValueError: they do not fit together.
    """
    integers = (torch.int32, torch.int64)
    if indices.dtype not in integers or sizes.dtype not in integers:
        raise ValueError("indices and shape are not integers")
    if indices.ndim != 1 or sizes.ndim != 1 or indices.shape != values.shape or len(sizes) > MAX_DIMENSIONS:
        raise ValueError(f"indices and values are not vectors of one length, or there are {sizes.numel()} dimensions")
    shape = tuple(sizes.tolist())
    if any(size < 0 for size in shape) or prod(max(1, size) for size in shape) >= 2**62:
        raise ValueError(f"{shape} is not a shape")
    if len(indices) and not (0 <= int(indices[0]) and int(indices[-1]) < prod(shape)):
        raise ValueError(f"an index is outside of the {prod(shape)} elements")
    if not bool((indices[1:] > indices[:-1]).all()):
        raise ValueError("the indices do not increase")
    return shape


def _json_keys(text: str) -> list[str]:
    """The keys of a JSON object; an empty list if the text is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return list(value) if isinstance(value, dict) else []


def _nonzero_share(tensor: Tensor) -> float:
    """The share of elements that are not 0."""
    # torch cannot count the nonzero elements of some short types.
    short = tensor.itemsize < 4 and tensor.dtype != torch.bool
    pieces = tensor.reshape(-1).split(1 << 20)
    counts = (int((piece.double() if short else piece).count_nonzero()) for piece in pieces)
    return sum(counts) / max(1, tensor.numel())


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
        model = onnx.load(path, load_external_data=False)
        if outside := [tensor.name for tensor in model.graph.initializer if tensor.data_location == tensor.EXTERNAL]:
            raise ValueError(f"the values of {outside[0][:MAX_TEXT]!r} are in another file, which is not read")
        arrays = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
        shares = {name: np.count_nonzero(array) / max(1, array.size) for name, array in arrays.items()}
    except Exception as error:  # a damaged file can raise anything in its reader
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            "file", f"{as_yaml(str(path))} is not a complete ONNX model ({plain_text(reason)})"
        ) from error
    rows = []
    for name, array in arrays.items():
        rows.append(TensorRow(name, array.shape, (shares[name],), None, array.nbytes, array.nbytes))
    opset = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    facts = {entry.key: entry.value for entry in model.metadata_props} | {"opset": opset}
    return Contents(facts, ("nonzero",), tuple(rows), path.stat().st_size)


def _read_checkpoint(path: Path) -> Contents:
    run, layer_densities = SavedRun(path), list[Mapping[str, float]]()
    for density in run.densities:  # the models have the same tensors, and one is in memory at a time
        model = run.model(density)
        layer_densities.append(model.densities)
    facts = run.facts(model.density)
    rows = [
        TensorRow(
            name,
            tuple(tensor.shape),
            tuple(of_layers.get(name) for of_layers in layer_densities),
            None,
            None,
            tensor.nbytes,
        )
        for name, tensor in model.tensors.items()
    ]
    columns = ("density",) if len(run.densities) == 1 else tuple(f"d = {density:g}" for density in run.densities)
    return Contents(facts, columns, tuple(rows), path.stat().st_size)


READERS: Mapping[str, Callable[[Path], Contents]] = {
    ".flash": _read_flash,
    ".safetensors": _read_safetensors,
    ".onnx": _read_onnx,
    ".ckpt": _read_checkpoint,
}
