"""The command ``flash-pl compare RUN ...``; it only reads files and needs no torch."""

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from flash_pl.compare import Comparison, print_table, read_runs, tables_of
from flash_pl.errors import ConfigError, printable


def compare(options: argparse.Namespace) -> None:
    """Compare finished runs."""
    out = [] if options.out is None else ["--out", str(options.out)]
    arguments = [*options.runs, *out, "--last", str(options.last), *target_arguments(options)]
    command_line = shlex.join(["flash-pl", "compare", *arguments])
    compare_runs(options.runs, options.last, options.out, command_line, target=options.target)


def target_arguments(options: argparse.Namespace) -> list[str]:
    return [] if options.target is None else ["--target", f"{options.target:g}"]


def compare_runs(
    paths: Iterable[str | Path],
    last: int,
    out: Path | None,
    command_line: str,
    failed: Sequence[str] = (),
    target: float | None = None,
) -> None:
    """Print the table of the finished runs at ``paths``, and on stderr a warning about each of the others.

    Args:
        paths: run directories, or folders with runs.
        last: number of evaluated rounds over which the accuracy is averaged.
        out: folder of the report; None writes no report.
        command_line: named in the report.
        failed: names of runs that are missing because they failed.
        target: value of the monitored metric whose rounds and bytes are shown.

    Raises:
        ConfigError: no run is finished, or ``out`` cannot be written.
    """
    paths = list(paths)
    runs, errors = read_runs(paths)
    if not runs and len(errors) == 1:
        raise errors[0]
    for error in errors:
        _warn(f"left out: {error}")
    if not runs:
        raise ConfigError("run", f"there is no finished run in {', '.join(map(str, paths))}")
    comparison, warnings = Comparison.of(runs, last, failed, target)
    for warning in warnings:
        _warn(warning)
    for table in tables_of(comparison):
        print_table(table, Console())
    if comparison.failed:
        print(comparison.about_failed)
    if out is not None:
        from flash_pl.compare import write_report  # only here: matplotlib takes longer than the table

        write_report(comparison, out, command_line)
        print(out / "report.html")


def _warn(text: str) -> None:
    print(f"flash-pl: warning: {printable(' '.join(text.split()))}", file=sys.stderr)
