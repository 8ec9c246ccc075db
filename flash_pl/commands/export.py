"""``flash-pl export CKPT --to FILE``"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flash_pl.checkpoint import write_atomically
from flash_pl.commands.command import command
from flash_pl.errors import ConfigError
from flash_pl.export import BATCHES, SavedRun, build_network, missing_packages, to_onnx, to_safetensors
from flash_pl.sparsity import SparseModel
from flash_pl.wire import encode_flash

EPILOG = """
examples:
  flash-pl export RUN/checkpoints/last.ckpt --to model.safetensors            a state dict
  flash-pl export RUN/checkpoints/last.ckpt --to model.safetensors --sparse   positions and values of active weights
  flash-pl export RUN/checkpoints/last.ckpt --to model.flash --values fp16    the shortest file
  flash-pl export RUN/checkpoints/last.ckpt --to model.onnx                   needs pip install "flash-pl[onnx]"
  flash-pl export RUN/checkpoints/last.ckpt --to small.onnx --density 0.05    what a tier of devices gets
"""


def add(commands: Any) -> None:
    parser = command(commands, run, epilog=EPILOG)
    parser.add_argument("checkpoint", metavar="CKPT", help="a run's checkpoints/last.ckpt")
    parser.add_argument("--to", metavar="FILE", type=Path, required=True, help=f"ends in one of {', '.join(WRITERS)}")
    parser.add_argument("--density", metavar="D", type=float, help="of a tier of devices; by default the server's own")
    parser.add_argument("--sparse", action="store_true", help=".safetensors: of masked tensors only active weights")
    parser.add_argument("--values", metavar="TYPE", help=".flash: type of active weights, fp32 (default), fp16 or bf16")
    parser.add_argument("--compress", action="store_true", help=".flash: also try a compressed bitmap for the mask")


def run(options: argparse.Namespace) -> None:
    """Write the model of a checkpoint for other programs."""
    path: Path = options.to
    if path.suffix not in WRITERS:
        raise ConfigError("--to", str(path), f"a file that ends in one of {', '.join(WRITERS)}")
    for option, suffix in {"sparse": ".safetensors", "values": ".flash", "compress": ".flash"}.items():
        if getattr(options, option) and path.suffix != suffix:
            raise ConfigError(f"--{option}", str(path), f"a {suffix} file with this option")
    saved = SavedRun(options.checkpoint)
    try:
        model = saved.model(options.density)
        content, remark = WRITERS[path.suffix](saved, model, options)
    except ConfigError as error:
        if error.key not in vars(options):
            raise
        raise ConfigError(f"--{error.key}", error.value, error.allowed) from error
    except ValueError as error:
        raise ConfigError("--to", str(path), f"another format for this model ({error})") from error
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ConfigError("--to", str(path), f"a file that can be written ({error.strerror or error})") from error
    share = f"{len(content) / model.nbytes:.1%} of the dense tensors' {model.nbytes:,}"
    print(f"{path}: {len(content):,} bytes, {share}")
    print(f"{model.active:,} of {model.maskable:,} weights active, d = {model.density:.4g}{remark}")


def _safetensors(saved: SavedRun, model: SparseModel, options: argparse.Namespace) -> tuple[bytes, str]:
    return to_safetensors(model, options.sparse), ""


def _flash(saved: SavedRun, model: SparseModel, options: argparse.Namespace) -> tuple[bytes, str]:
    return encode_flash(model, options.values or "fp32", options.compress), ""


def _onnx(saved: SavedRun, model: SparseModel, options: argparse.Namespace) -> tuple[bytes, str]:
    if missing := missing_packages():
        raise ConfigError("to", str(options.to), f'{", ".join(missing)} installed: pip install "flash-pl[onnx]"')
    network, samples = build_network(saved, model, max(BATCHES))
    content, difference = to_onnx(network, samples, model.facts)
    sizes = " and ".join(map(str, BATCHES))
    return content, f"\nonnxruntime and torch differ by at most {difference:.2g} on batches of {sizes}"


# Each returns the file's content and what else there is to say.
Writer = Callable[[SavedRun, SparseModel, argparse.Namespace], tuple[bytes, str]]
WRITERS: Mapping[str, Writer] = {".safetensors": _safetensors, ".flash": _flash, ".onnx": _onnx}
