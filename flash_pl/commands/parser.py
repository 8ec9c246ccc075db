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
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], epilog: str = ""
) -> argparse.ArgumentParser:
    """Declare a command, which calls ``run`` with its parsed arguments; its help is the docstring of ``run``.

    Args:
        commands: the subparsers of ``flash-pl``.
        name: of the command.
        run: sets the exit code by the error that it raises, see ``flash_pl.cli.main``.
        epilog: text below the help.
    """
    about = (run.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    parser = commands.add_parser(
        name,
        help=about,
        description=f"{about}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
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
