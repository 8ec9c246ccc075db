"""The arguments of every command. Nothing here imports torch, so that help and the errors of typing take no time."""

import argparse
from pathlib import Path
from typing import Any

from flash_pl.commands.help import fit_help
from flash_pl.commands.parser import add_config, add_overrides, add_trust, command
from flash_pl.config.given import check_given
from flash_pl.config.keys import check_key
from flash_pl.config.shipped import read_config

ABOUT_SWEEP = """
Each combination of the values is trained in its own process and its own folder. A finished run is not trained again,
and an unfinished run is resumed: the same command can be stopped and repeated.
Commas inside brackets and quotes do not separate values.

examples:
  flash-pl sweep jmwst scheduler=jmwst,spdst,nst seed=1,2,3 rounds=60
  flash-pl sweep jmwst density=0.02,0.05,0.1 scheduler.prune_rate=0.2,0.3 --workers 2
"""
ABOUT_EXPORT = """
examples:
  flash-pl export RUN/checkpoints/last.ckpt --to model.safetensors            a state dict
  flash-pl export RUN/checkpoints/last.ckpt --to model.safetensors --sparse   positions and values of active weights
  flash-pl export RUN/checkpoints/last.ckpt --to model.flash --values fp16    the shortest file
  flash-pl export RUN/checkpoints/last.ckpt --to model.onnx                   needs pip install "flash-pl[onnx]"
  flash-pl export RUN/checkpoints/last.ckpt --to small.onnx --density 0.05    the model for a tier of devices
"""


def add_commands(commands: Any) -> None:
    """Declare all commands, in the order of ``flash-pl --help``."""
    _add_fit(commands)
    _add_validate(commands)
    _add_sweep(commands)
    _add_compare(commands)
    _add_export(commands)
    _add_inspect(commands)
    about = "List the shipped configs and the names that keys can have"
    command(commands, "configs", "flash_pl.commands.help.configs", about)


def _add_fit(commands: Any) -> None:
    parser = command(
        commands,
        "fit",
        "flash_pl.commands.fit.fit",
        "Train, and write a run directory",
        check=lambda options: check_given(read_config(options.config), options.arguments),
        writes_files=True,
        epilog=fit_help(),
    )
    add_config(parser)
    add_overrides(parser)


def _add_validate(commands: Any) -> None:
    parser = command(
        commands,
        "validate",
        "flash_pl.commands.fit.validate",
        "Evaluate a checkpoint",
        check=lambda options: check_given({}, options.arguments),
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="a run's checkpoints/last.ckpt")
    add_trust(parser)
    add_overrides(parser)


def _add_sweep(commands: Any) -> None:
    parser = command(
        commands,
        "sweep",
        "flash_pl.commands.compare.sweep",
        "Train every combination of values and compare the runs",
        check=_check_sweep,
        writes_files=True,
        epilog=ABOUT_SWEEP,
    )
    add_config(parser)
    parser.add_argument("arguments", metavar="KEY=VALUES", nargs="+", help="overrides; a,b,c for several values")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the runs [sweeps/CONFIG]")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="runs that train at the same time [1]")
    _add_target(parser)


def _check_sweep(options: argparse.Namespace) -> None:
    check_given(read_config(options.config))
    for argument in options.arguments:
        key, equals, _ = argument.partition("=")
        if equals and key:  # others are no typing errors of a key; the sweep itself refuses them
            check_key(key)


def _add_compare(commands: Any) -> None:
    parser = command(commands, "compare", "flash_pl.commands.compare.compare", "Compare finished runs")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory, or a folder with runs at any depth")
    parser.add_argument("--out", metavar="FOLDER", help="also write tables, figures and report.html there")
    parser.add_argument(
        "--last", metavar="K", type=int, default=5, help="accuracy is the mean over the last K evaluated rounds [5]"
    )
    _add_target(parser)


def _add_target(parser: argparse.ArgumentParser) -> None:
    about = "also show the rounds, and the bytes sent in them, until trainer.monitor first reaches this value (for a "
    about += "loss: falls to it), such as 0.8; as measured after a round, without smoothing or interpolation"
    parser.add_argument("--target", metavar="VALUE", type=float, help=about)


def _add_export(commands: Any) -> None:
    parser = command(
        commands,
        "export",
        "flash_pl.commands.export.export",
        "Write the model of a checkpoint for other programs",
        writes_files=True,
        epilog=ABOUT_EXPORT,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="a checkpoint of a run, such as RUN/checkpoints/last.ckpt")
    parser.add_argument(
        "--to", metavar="FILE", type=Path, required=True, help="with suffix .safetensors, .flash or .onnx"
    )
    parser.add_argument("--density", metavar="D", type=float, help="density of a tier of devices (default: the server)")
    parser.add_argument("--sparse", action="store_true", help=".safetensors: only the active weights of masked tensors")
    parser.add_argument("--values", metavar="TYPE", help=".flash: type of active weights, fp32 (default), fp16 or bf16")
    parser.add_argument("--compress", action="store_true", help=".flash: also try a compressed bitmap for the mask")
    add_trust(parser)


def _add_inspect(commands: Any) -> None:
    about = "Show the contents of a file with a model: densities, and bytes of each tensor"
    parser = command(commands, "inspect", "flash_pl.commands.export.inspect", about)
    parser.add_argument("file", metavar="FILE", type=Path, help="a .flash, .safetensors, .onnx or .ckpt file")
