"""What every command declares."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any


class CommandParser(argparse.ArgumentParser):
    """Takes a list of arguments also in parts, with options between them."""

    intermixing = False  # argparse parses options first, then what is left, both by the method below

    def parse_known_args(  # type: ignore[override]  # argparse's overloads say the same
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self.intermixing:
            return super().parse_known_args(args, namespace)
        self.intermixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.intermixing = False


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
    parser.add_argument(
        "arguments", metavar="KEY=VALUE", nargs="*", default=[], help="overrides, see flash-pl fit --help"
    )
