"""``flash-pl export CKPT --to FILE`` writes the model of a checkpoint; ``flash-pl inspect FILE`` shows such a file."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from flash_pl.atomic_write import make_folder, write_atomically
from flash_pl.checkpoint import checkpoint_file
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.export import (
    BATCH_SIZES,
    SavedRun,
    build_network,
    contents_table,
    missing_packages,
    read_contents,
    to_onnx,
    to_safetensors,
)
from flash_pl.lines import broken
from flash_pl.sparsity import SparseModel
from flash_pl.units import percent, size
from flash_pl.wire import encode_flash

SPARSE = 0.4  # largest density at which positions and values are clearly shorter than the dense tensors


def export(options: argparse.Namespace) -> None:
    """Write the model of a checkpoint for other programs."""
    path: Path = options.to
    name = as_yaml(str(path))
    if path.suffix not in WRITERS:
        raise ConfigError("--to", f"the name {name} has an unknown suffix", f"known are {', '.join(WRITERS)}")
    for option, suffix in {"sparse": ".safetensors", "values": ".flash", "compress": ".flash"}.items():
        if getattr(options, option) and path.suffix != suffix:
            raise ConfigError(f"--{option}", f"{name} is not a {suffix} file", f"the option is for {suffix} files only")
    saved = SavedRun(options.checkpoint)
    try:
        model = saved.model(options.density)
        content, remark = WRITERS[path.suffix](saved, model, options)
    except ConfigError as error:
        if error.key not in vars(options):
            raise
        raise ConfigError(f"--{error.key}", error.problem, error.hint) from error
    except ValueError as error:
        raise ConfigError("--to", f"{name} has a format that does not support this model ({error})") from error
    try:
        make_folder(path.parent)
        write_atomically(path, content)
    except OSError as error:
        raise ConfigError("--to", f"{name} cannot be written ({error.strerror or error})") from error
    share = f"{percent(len(content) / model.nbytes)} of the dense tensors' {size(model.nbytes)}"
    print(broken(f"{path}: {size(len(content))} ({len(content):,} bytes), {share}"))
    print(broken(f"{model.active:,} of {model.maskable:,} weights active, d = {model.density:.4g}{remark}"))


def _as_safetensors(saved: SavedRun, model: SparseModel, options: argparse.Namespace) -> tuple[bytes, str]:
    content = to_safetensors(model, options.sparse)
    if options.sparse or model.density > SPARSE:
        return content, ""
    smaller = size(len(to_safetensors(model, sparse=True)))
    return content, f"\nwith --sparse, positions and values of the active weights, the file would have {smaller}"


def _as_flash(saved: SavedRun, model: SparseModel, options: argparse.Namespace) -> tuple[bytes, str]:
    return encode_flash(model, options.values or "fp32", options.compress), ""


def _as_onnx(saved: SavedRun, model: SparseModel, options: argparse.Namespace) -> tuple[bytes, str]:
    if missing := missing_packages():
        problem = f"{as_yaml(str(options.to))} needs packages that are not installed: {', '.join(missing)}"
        raise ConfigError("to", problem, 'pip install "flash-pl[onnx]"')
    network, samples = build_network(saved, model, max(BATCH_SIZES), options.trust)
    content, difference = to_onnx(network, samples, model.facts)
    sizes = " and ".join(map(str, BATCH_SIZES))
    return content, f"\nonnxruntime and torch differ by at most {difference:.2g} on batches of {sizes}"


# A writer returns the content of the file and a remark to print.
Writer = Callable[[SavedRun, SparseModel, argparse.Namespace], tuple[bytes, str]]
WRITERS: Mapping[str, Writer] = {".safetensors": _as_safetensors, ".flash": _as_flash, ".onnx": _as_onnx}


def inspect(options: argparse.Namespace) -> None:
    """Show the contents of a file with a model: densities, and bytes of each tensor."""
    options.file = checkpoint_file(options.file)
    Console().print(contents_table(read_contents(options.file), options.file))
