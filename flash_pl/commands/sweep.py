"""The command ``flash-pl sweep CONFIG KEY=VALUE,VALUE ...``."""

import argparse
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flash_pl.commands.compare import compare_runs, target_arguments
from flash_pl.config import DirectoryLock
from flash_pl.errors import ConfigError, RunError, as_yaml
from flash_pl.sweep import Job, check_jobs, run_jobs


def sweep(options: argparse.Namespace) -> None:
    """Train every combination of values and compare the runs."""
    check_jobs(options.jobs)
    with _locked(options.folder):
        _run(options.jobs, options.folder, options)


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
        arguments = [options.config, *options.arguments, "--out", str(folder), *target_arguments(options)]
        compare_runs(
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
