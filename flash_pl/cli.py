"""The command line: ``flash-pl COMMAND ...``, see ``flash_pl.commands``."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from lightning.fabric.utilities import rank_zero_only

from flash_pl import __version__
from flash_pl.commands import compare, export, fit, help
from flash_pl.commands.output import lasting_output
from flash_pl.commands.parser import CommandParser
from flash_pl.errors import ConfigError, DataNotFoundError, Interrupted, ModuleError, RankError, RunError, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code. 0: success. 2: a setting or the data must be corrected. 3: a run that had begun could not go on.
        128 + n: signal n stopped a run, which saved its state. Every code but 0 comes with one line on stderr.
    """
    options = _parser().parse_args(arguments)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # hide how the processes find each other
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a class_path may name a file in the folder where the command is run
    with lasting_output():
        try:
            options.run(options)
        except (ConfigError, DataNotFoundError, ModuleError) as error:
            return _end(2, f"error: {error}")
        except Interrupted as error:
            return _end(128 + error.signal, f"{error}; {error.remedy}")
        except RunError as error:
            # Other ranks report their own errors; if rank 0 is gone, nobody else can print that.
            lost_rank_0 = isinstance(error, RankError) and error.gone and error.rank == 0
            return _end(3, f"error: {error}", on_every_rank=lost_rank_0)
        except KeyboardInterrupt:
            return _end(130, "interrupted")
        return 0


def _end(code: int, message: str, on_every_rank: bool = False) -> int:
    """Print the reason why the command ends, by default on rank 0 only, and return the exit code."""
    if on_every_rank or getattr(rank_zero_only, "rank", 0) == 0:
        line = " ".join(message.split())  # one line, even if the message quotes several
        print("flash-pl:", printable(line), file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-pl",
        description="Federated sparse training: clients agree on one mask and train only the weights under it.",
        epilog="First steps: flash-pl fit jmwst; flash-pl configs; flash-pl fit --help",
    )
    parser.add_argument("--version", action="version", version=f"flash-pl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for module in (fit, compare, export, help):
        module.add(commands)
    return parser
