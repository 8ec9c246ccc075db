"""The command line: ``flash-pl COMMAND ...``, see ``flash_pl.commands``."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any

from flash_pl import __version__
from flash_pl.commands.arguments import add_commands
from flash_pl.commands.parser import CommandParser, MainParser
from flash_pl.commands.streams import safe_streams
from flash_pl.environment import starts_as_rank_0
from flash_pl.errors import (
    ConfigError,
    DataNotFoundError,
    Interrupted,
    ModuleError,
    RankError,
    RunError,
    as_yaml,
    describe_error,
    is_of_user,
    printable,
)
from flash_pl.interrupt import ended_by_interrupt

FIRST_STEPS = """
first steps:
  flash-pl fit jmwst     train on digits, 20 seconds on a CPU
  flash-pl configs       what else there is
  flash-pl help density  what a key means
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: None takes those of this process. Then Ctrl-C during the start ends the process.

    Returns:
        The exit code. 0: success. 1: the result could not be printed. 2: a setting or the data must be corrected. 3: a
        run that had begun could not go on. 128 + n: signal n stopped a run, which saved its state. Every code but 0
        comes with one line on stderr; only a reader of a pipe that has seen enough, as in ``flash-pl configs | head``,
        ends the command without a word (code 141).
    """
    starting = ended_by_interrupt if arguments is None else nullcontext
    with safe_streams() as out:
        with starting():
            options = _parser().parse_args(arguments)
        try:
            with starting():
                run = _prepared(options)
            run(options)
        except BaseException as error:
            return _end_by(error)
        out.flush()
        if out.error is None or options.writes_files:
            return 0
        if isinstance(out.error, BrokenPipeError):
            return 128 + 13  # SIGPIPE, as the shell says of other programs
        return _end(1, f"error: standard output cannot be written ({out.error.strerror or out.error})")


def _prepared(options: argparse.Namespace) -> Callable[[argparse.Namespace], Any]:
    """Check what can be checked at once, then import the function that runs the command.

    The import is that of torch for most commands, and takes seconds.
    """
    logging.raiseExceptions = False  # the command goes on if a log cannot be written
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # hide how the processes find each other
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a class_path may name a file in the folder where the command is run
    if options.check is not None:
        options.check(options)
    module, _, name = options.run.rpartition(".")
    run: Callable[[argparse.Namespace], Any] = getattr(import_module(module), name)
    return run


def _end_by(error: BaseException) -> int:
    """Print the line about an error, and return its exit code."""
    if isinstance(error, ConfigError | DataNotFoundError | ModuleError):
        return _end(2, f"error: {error}")
    if isinstance(error, Interrupted):
        return _end(128 + error.signal, f"{error}; {error.remedy}")
    if isinstance(error, RunError):
        # Other ranks report their own errors; if rank 0 is gone, nobody else can print that.
        lost_rank_0 = isinstance(error, RankError) and error.gone and error.rank == 0
        return _end(3, f"error: {error}", on_every_rank=lost_rank_0)
    if isinstance(error, KeyboardInterrupt):
        return _end(130, "interrupted")
    if isinstance(error, UnicodeEncodeError):
        name, encoding = as_yaml(error.object), sys.getfilesystemencoding()
        return _end(2, f"error: {name} cannot be the name of a file here ({encoding}); set PYTHONUTF8=1")
    if sys.flags.dev_mode:
        raise error
    # Code that is not ours, before a run has begun.
    hint = "" if is_of_user(error) else "; python -X dev -m flash_pl shows the traceback"
    return _end(2, f"error: {describe_error(error)}{hint}")


def _end(code: int, message: str, on_every_rank: bool = False) -> int:
    """Print the reason why the command ends, by default on rank 0 only, and return the exit code."""
    if on_every_rank or starts_as_rank_0():
        line = " ".join(message.split())  # one line, even if the message quotes several
        print(f"flash-pl: {printable(line)}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = MainParser(
        prog="flash-pl",
        description="Federated sparse training: clients agree on one mask and train only the weights under it.",
        epilog=FIRST_STEPS,
    )
    parser.add_argument("--version", action="version", version=f"flash-pl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    parser.commands = commands
    add_commands(commands)
    return parser
