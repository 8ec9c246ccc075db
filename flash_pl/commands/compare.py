"""The commands ``flash-pl sweep CONFIG KEY=VALUE,VALUE ...`` and ``flash-pl compare RUN ...``."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from flash_pl.checks import check_integers, check_numbers
from flash_pl.compare import Comparison, print_table, read_runs, tables_of, write_report
from flash_pl.config import DirectoryLock, read_config
from flash_pl.errors import ConfigError, RunError, as_yaml, printable
from flash_pl.sweep import Choice, Job, check_jobs, make_jobs, run_jobs


def sweep(options: argparse.Namespace) -> None:
    """Train every combination of values and compare the runs."""
    check_integers(workers=options.workers)
    check_numbers(optional=True, target=options.target)
    folder = _folder(options.out or str(Path("sweeps") / Path(options.config).stem))
    choices = [Choice.read(argument) for argument in options.arguments]
    jobs = make_jobs(options.config, read_config(options.config), choices, folder)
    check_jobs(jobs)
    with _locked(folder):
        _run(jobs, folder, options)


def _folder(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError("out", f"{as_yaml(path)} names no user of this machine") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of a folder, which is made if it is missing.

    Raises:
        ConfigError: another sweep is running in it, or it cannot be written.
    """
    lock, shown = DirectoryLock(folder), as_yaml(str(folder))
    try:
        holder = lock.acquire()
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise ConfigError("out", f"{shown} is not a folder that can be written ({reason})") from error
    if holder:
        problem = f"{holder} is running a sweep in {shown}"
        raise ConfigError("out", problem, "wait for its end, or give another folder")
    try:
        yield
    finally:
        lock.release(keep=True)


def _run(jobs: Sequence[Job], folder: Path, options: argparse.Namespace) -> None:
    """Train the jobs and compare the runs."""
    try:
        finished, failed = run_jobs(jobs, options.workers)
    except OSError as error:
        raise RunError(f"{error.filename or folder}: {error.strerror or error}") from error
    if finished:
        arguments = [options.config, *options.arguments, "--out", str(folder), *_target_arguments(options)]
        _compare(
            [job.directory for job in finished],
            last=5,
            out=folder / "report",
            command_line=shlex.join(["flash-pl", "sweep", *arguments]),
            target=options.target,
            failed=[job.name for job in failed],
        )
    if failed:
        names = ", ".join(job.name for job in failed)
        raise RunError(f"{len(failed)} of {len(jobs)} runs failed: {names}")


def compare(options: argparse.Namespace) -> None:
    """Compare finished runs."""
    check_integers(last=options.last)
    check_numbers(optional=True, target=options.target)
    out = [] if options.out is None else ["--out", options.out]
    arguments = [*options.runs, *out, "--last", str(options.last), *_target_arguments(options)]
    folder = None if options.out is None else _folder(options.out)
    _compare(options.runs, options.last, folder, shlex.join(["flash-pl", "compare", *arguments]), target=options.target)


def _target_arguments(options: argparse.Namespace) -> list[str]:
    return [] if options.target is None else ["--target", f"{options.target:g}"]


def _compare(
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
        write_report(comparison, out, command_line)
        print(out / "report.html")


def _warn(text: str) -> None:
    print("flash-pl: warning:", printable(" ".join(text.split())), file=sys.stderr)
