"""Parts of the argument parser that several commands share."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any


class CommandParser(argparse.ArgumentParser):
    """A parser that accepts a list of arguments in several parts, with options between them."""

    intermixing = False  # parse_known_intermixed_args calls parse_known_args itself, for options and then for the rest

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


def command(
    commands: Any,
    name: str,
    run: str,
    about: str,
    check: Callable[[argparse.Namespace], None] | None = None,
    writes_files: bool = False,
    epilog: str = "",
) -> argparse.ArgumentParser:
    """Declare a command, without the import of what it does.

    Args:
        commands: the subparsers of ``flash-pl``.
        name: of the command.
        run: module and name of the function that is called with the parsed arguments. The module is imported when the
            command runs. The errors that the function raises set the exit code, see ``flash_pl.cli.main``.
        about: what the command does, without a full stop.
        check: called with the parsed arguments before that import; finds errors of typing at once.
        writes_files: its result are files. What it prints describes the files, so it may be lost.
        epilog: text below the help.
    """
    parser = commands.add_parser(
        name,
        help=about,
        description=f"{about}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, check=check, writes_files=writes_files)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``CONFIG``."""
    parser.add_argument("config", metavar="CONFIG", help="a shipped config (see flash-pl configs) or a YAML file")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the arguments ``KEY=VALUE ...``."""
    parser.add_argument(
        "arguments",
        metavar="KEY=VALUE",
        nargs="*",
        default=[],
        help="set keys of the config; flash-pl fit --help lists them",
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--trust``."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="use also classes outside of flash_pl that the checkpoint names; their code runs (docs/security.md)",
    )
