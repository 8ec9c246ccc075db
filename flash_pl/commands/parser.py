"""Parts of the argument parser that several commands share."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from flash_pl.checks import check_integers, check_numbers
from flash_pl.config import shipped
from flash_pl.config.keys import KEYS, check_key
from flash_pl.config.names import one_of
from flash_pl.errors import ConfigError, as_yaml, printable
from flash_pl.lines import laid_out, text_width, wrapped


class WholeWords(argparse.HelpFormatter):
    """Help in lines that fit the terminal. argparse breaks words at hyphens, and in an epilog it keeps lists only if it
    breaks no line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=text_width())

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):  # argparse forgets that commands are indented once more
            self._action_max_length += self._indent_increment

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return laid_out(text)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(" ".join(text.split()), width)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, as those of settings are: no usage, which --help shows."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=WholeWords)

    def error(self, message: str) -> NoReturn:
        sentence = message.removeprefix("argument ")
        self.exit(2, f"flash-pl: error: {printable(sentence)}; see {self.prog} --help\n")


class MainParser(OneLineParser):
    """The parser of ``flash-pl``, which has one positional argument, the command."""

    commands: Any = None  # the subparsers, once they are declared

    def parse_known_args(  # type: ignore[override]  # argparse's overloads say the same
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        given = list(sys.argv[1:] if args is None else args)
        known = list(self.commands.choices)
        if given[:1] == ["help"]:  # keys may be written as in fit: help --lr
            names = [word if word in ("-h", "--help") else word.lstrip("-") for word in given[1:]]
            given = ["help", *names] if names else ["--help"]
        command = next((argument for argument in given if not argument.startswith("-")), None)
        if not given:
            self.error(f"a command is missing; {one_of(None, _listed(known))}")
        if command is not None and command not in known:
            nearest = _nearest(command, self.commands.choices)
            self.exit(2, f"flash-pl: error: {printable(as_yaml(command))} is not a command; {nearest}\n")
        return super().parse_known_args(given, namespace)


def _nearest(command: str, parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """The hint for a word that is no command: it may be a config, or say what a command does (``train``)."""
    if command in shipped.names():
        return f"did you mean flash-pl fit {command}?"
    for name, parser in parsers.items():
        if re.match(rf"{re.escape(command)}\b", str(parser.description), re.IGNORECASE):
            return f"did you mean {name}?"
    return one_of(command, _listed(parsers))


def _listed(commands: Iterable[str]) -> list[str]:
    return [name for name in commands if not name.startswith("_")]


class CommandParser(OneLineParser):
    """A parser that accepts a list of arguments in several parts, with options between them.

    Attributes:
        takes_keys: the command takes ``key=value``, and then also ``--key=value`` and ``--key value``.
        commands: the parsers of all commands by name.
    """

    takes_keys = False
    commands: Mapping[str, argparse.ArgumentParser] = {}
    intermixing = False  # parse_known_intermixed_args calls parse_known_args itself, for options and then for the rest

    def parse_known_args(  # type: ignore[override]  # argparse's overloads say the same
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self.intermixing:
            return super().parse_known_args(args, namespace)
        self.intermixing = True
        try:
            given = list(args or ())
            found, unknown = self.parse_known_intermixed_args(self._without_dashes(given), namespace)
        finally:
            self.intermixing = False
        if unknown:
            self.error(self._about_unknown(unknown))
        return found, []

    @property
    def option_names(self) -> list[str]:
        """The options of the command, such as ``--out``."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def _without_dashes(self, given: list[str]) -> list[str]:
        """The arguments with ``key=value`` in place of ``--key=value`` and ``--key value``.

        Options of the command and keys that do not exist stay as they are. Keys come last, since ``CONFIG`` may follow
        them: ``fit --density 0.1 jmwst``.
        """
        if not self.takes_keys:
            return given
        plain: list[str] = []
        keys: list[str] = []
        remaining = iter(given)
        for argument in remaining:
            name, equals, _ = argument.removeprefix("--").partition("=")
            is_key = argument.startswith("--") and f"--{name}" not in self.option_names and is_known(name)
            if argument == "--":
                return [*plain, *keys, argument, *remaining]
            if is_key and not equals:
                if (value := next(remaining, "--")).startswith("--"):
                    self.error(f"{argument}: a value is missing")
                argument = f"{argument}={value}"
            (keys if is_key else plain).append(argument.removeprefix("--") if is_key else argument)
        return [*plain, *keys]

    def _about_unknown(self, unknown: Sequence[str]) -> str:
        message = f"unrecognized arguments: {' '.join(unknown)}"
        name = unknown[0].partition("=")[0]
        others = [command for command, parser in self.commands.items() if name in parser._option_string_actions]
        if name.startswith("--") and others:
            return f"{name}: this is an option of flash-pl {' and '.join(others)}"
        known = [*self.option_names, *(f"--{key}" for key in KEYS if self.takes_keys)]
        nearest = get_close_matches(name, known, n=1) if name.startswith("-") else []
        return f"{message}; did you mean {nearest[0]}?" if nearest else message


def is_known(key: str) -> bool:
    """Whether a dotted name is a key, or below one."""
    try:
        check_key(key)
    except ConfigError:
        return False
    return True


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
        name: of the command; one that begins with an underscore is not listed.
        run: module and name of the function that is called with the parsed arguments. The module is imported when the
            command runs. The errors that the function raises set the exit code, see ``flash_pl.cli.main``.
        about: what the command does, without a full stop.
        check: called with the parsed arguments before that import; finds errors of typing at once. It may add to the
            arguments what it has worked out.
        writes_files: its result are files. What it prints describes the files, so it may be lost.
        epilog: text below the help, as ``laid_out`` takes it.
    """
    listed = {} if name.startswith("_") else {"help": about}
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        **listed,
        description=f"{about}.",
        epilog=epilog,
    )
    parser.set_defaults(run=run, check=check, writes_files=writes_files)
    parser.commands = commands.choices  # type: ignore[attr-defined]
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``CONFIG``."""
    parser.add_argument("config", metavar="CONFIG", help="a shipped config (see flash-pl configs) or a YAML file")


def add_overrides(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Add the arguments ``KEY=VALUE ...``, which may also be written ``--KEY=VALUE`` and ``--KEY VALUE``.

    Args:
        options: of ``add_argument``, in place of the usual ones.
    """
    about = (
        "set keys of the config, also as --KEY VALUE; flash-pl fit --help lists them, flash-pl help KEY explains one"
    )
    usual = {"metavar": "KEY=VALUE", "nargs": "*", "default": [], "help": about}
    parser.add_argument("arguments", **usual | options)
    assert isinstance(parser, CommandParser)
    parser.takes_keys = True


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--trust``."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="use also classes outside of flash_pl that the checkpoint names; their code runs (docs/security.md)",
    )


def integer(text: str) -> int:
    """The type of an option that takes an integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: the text is another value.
    """
    value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text
    with _problem():
        check_integers(value=value)
    return int(value)


def number(text: str) -> float:
    """The type of an option that takes a finite number.

    Raises:
        argparse.ArgumentTypeError: the text is another value.
    """
    try:
        value: float | str = float(text)
    except ValueError:
        value = text
    with _problem():
        check_numbers(value=value)
    return float(value)


def folder(text: str) -> Path:
    """The type of an option that takes the path of a folder; ``~user`` is the home of a user.

    Raises:
        argparse.ArgumentTypeError: this machine has no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{as_yaml(text)} names no user of this machine") from error


@contextmanager
def _problem() -> Iterator[None]:
    """The problem of a ``ConfigError`` in the block becomes the message about an option."""
    try:
        yield
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.problem) from error


class _Instead(argparse.Action):
    """Runs another function in place of the command's own; what it prints is its result."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        namespace.run, namespace.writes_files = self.const, False


def add_instead(options: Any, option: str, run: str, about: str) -> None:
    """Add an option with which the command runs another function, given by module and name as in ``command``.

    Args:
        options: a group of options of which one can be given.
        option: its name, such as ``--dry-run``.
        run, about: as in ``command``.
    """
    options.add_argument(option, action=_Instead, nargs=0, const=run, default=argparse.SUPPRESS, help=about)
