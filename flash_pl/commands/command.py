"""What every command declares."""

import argparse
from collections.abc import Callable
from typing import Any


def command(commands: Any, run: Callable[[argparse.Namespace], None], epilog: str = "") -> argparse.ArgumentParser:
    """The parser of a command that is called like the file of ``run`` and described by its docstring."""
    about = (run.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    parser = commands.add_parser(
        run.__module__.rpartition(".")[2],
        help=about,
        description=f"{about}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """The arguments ``KEY=VALUE ...``."""
    parser.add_argument("arguments", metavar="KEY=VALUE", nargs="*", help="overrides, see flash-pl fit --help")
