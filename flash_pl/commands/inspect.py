"""``flash-pl inspect FILE``: show the contents of a file with a model."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from flash_pl.commands.parser import command
from flash_pl.export import contents_table, read_contents


def add(commands: Any) -> None:
    parser = command(commands, "inspect", run)
    parser.add_argument("file", metavar="FILE", type=Path, help="a .flash, .safetensors, .onnx or .ckpt file")


def run(options: argparse.Namespace) -> None:
    """Show the contents of a file with a model: densities, and bytes of each tensor."""
    Console().print(contents_table(read_contents(options.file), options.file))
