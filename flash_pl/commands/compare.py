"""``flash-pl compare RUN ...``"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from flash_pl.checks import check_integers
from flash_pl.commands.command import command
from flash_pl.compare import Comparison, print_table, read_runs, tables_of, write_report
from flash_pl.errors import ConfigError


def add(commands: Any) -> None:
    parser = command(commands, run)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory, or a folder with runs at any depth")
    parser.add_argument("--out", metavar="FOLDER", help="also write tables, figures and report.html there")
    parser.add_argument(
        "--last", metavar="K", type=int, default=5, help="accuracy is the mean over the last K evaluated rounds [5]"
    )


def run(options: argparse.Namespace) -> None:
    """Compare finished runs."""
    check_integers(last=options.last)
    out = [] if options.out is None else ["--out", options.out]
    made_by = shlex.join(["flash-pl", "compare", *options.runs, *out, "--last", str(options.last)])
    compare(options.runs, options.last, None if options.out is None else Path(options.out).expanduser(), made_by)


def compare(paths: Iterable[str | Path], last: int, out: Path | None, made_by: str, failed: Sequence[str] = ()) -> None:
    """Print the table of the finished runs at ``paths``, and a line on stderr for each of the others.

    ``failed`` are names of runs that should be among them.

    Raises:
        ConfigError: there is none, or ``out`` cannot be written.
    """
    paths = list(paths)
    runs, errors = read_runs(paths)
    if not runs and len(errors) == 1:
        raise errors[0]
    for error in errors:
        _warn(f"{error}; left out")
    if not runs:
        raise ConfigError("run", f"no finished run in {', '.join(map(str, paths))}")
    comparison, warnings = Comparison.of(runs, last, failed)
    for warning in warnings:
        _warn(warning)
    for table in tables_of(comparison):
        print_table(table, Console())
    if comparison.failed:
        print(comparison.about_failed)
    if out is not None:
        write_report(comparison, out, made_by)
        print(out / "report.html")


def _warn(text: str) -> None:
    print("flash-pl: warning:", *text.split(), file=sys.stderr)
