"""The command line: ``flash-pl COMMAND ...``, see ``flash_pl.commands``."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from lightning.fabric.utilities import rank_zero_only

from flash_pl import __version__
from flash_pl.commands import compare, configs, export, fit, inspect, sweep, validate
from flash_pl.commands.command import CommandParser
from flash_pl.errors import ConfigError, DataNotFoundError, Interrupted, ModuleError, RankError, RunError

COMMANDS = (fit, validate, sweep, compare, export, inspect, configs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code, if not 0 after one line on stderr: 2 for a setting or data to correct, 3 for a run that could not
        go on, 128 + n for a run that signal n has stopped after it had saved its state.
    """
    options = _parser().parse_args(arguments)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # how processes find each other interests nobody
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a class_path may name a file that lies where the command is run
    try:
        options.command(options)
    except (ConfigError, DataNotFoundError, ModuleError) as error:
        return _end(2, f"error: {error}")
    except Interrupted as error:
        return _end(128 + error.signal, f"{error}; {error.remedy}")
    except RunError as error:
        lonely = isinstance(error, RankError) and error.gone and error.rank == 0
        return _end(3, f"error: {error}", everywhere=lonely)
    except KeyboardInterrupt:
        return _end(130, "interrupted")
    return 0


def _end(code: int, message: str, everywhere: bool = False) -> int:
    """Say, on rank 0 or everywhere, in one line why the command ends; returns the exit code."""
    if everywhere or getattr(rank_zero_only, "rank", 0) == 0:
        print("flash-pl:", *message.split(), file=sys.stderr)  # one line, whatever the error quotes
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-pl",
        description="Federated sparse training: clients agree on one mask and train only that.",
        epilog="First steps: flash-pl fit jmwst; flash-pl configs; flash-pl fit --help",
    )
    parser.add_argument("--version", action="version", version=f"flash-pl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for one in COMMANDS:
        one.add(commands)
    return parser
