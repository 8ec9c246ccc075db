"""``flash-pl sweep CONFIG KEY=VALUE,VALUE ...``"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from flash_pl.checks import check_integers
from flash_pl.commands.command import command
from flash_pl.commands.compare import compare
from flash_pl.config import read_config
from flash_pl.errors import ConfigError, RunError
from flash_pl.sweep import Choice, check, jobs, sweep

ABOUT = """
Every combination of the values is trained, in a process of its own and a folder of its own. What is there already is
not trained again and what was begun goes on, so the same command may be stopped and repeated.
Commas inside brackets and quotes do not separate values.

examples:
  flash-pl sweep jmwst scheduler=jmwst,spdst,nst seed=1,2,3 rounds=60
  flash-pl sweep jmwst density=0.02,0.05,0.1 scheduler.prune_rate=0.2,0.3 --workers 2
"""


def add(commands: Any) -> None:
    parser = command(commands, run, epilog=ABOUT)
    parser.add_argument("config", metavar="CONFIG", help="a shipped config (see flash-pl configs) or a YAML file")
    parser.add_argument("arguments", metavar="KEY=VALUES", nargs="+", help="overrides; a,b,c for several values")
    parser.add_argument("--out", metavar="FOLDER", help="where the runs go [sweeps/CONFIG]")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="trainings at a time [1]")


def run(options: argparse.Namespace) -> None:
    """Train every combination of values and compare the runs."""
    check_integers(workers=options.workers)
    folder = Path(options.out or Path("sweeps") / Path(options.config).stem).expanduser()
    choices = [Choice.read(argument) for argument in options.arguments]
    todo = jobs(options.config, read_config(options.config), choices, folder)
    check(todo)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("out", str(folder), f"a folder, or a new one ({error.strerror})") from error
    whole, failed = sweep(todo, options.workers)
    if whole:
        made_by = shlex.join(["flash-pl", "sweep", options.config, *options.arguments, "--out", str(folder)])
        missing = [job.name for job in failed]
        compare([job.directory for job in whole], last=5, out=folder / "report", made_by=made_by, failed=missing)
    if failed:
        names = ", ".join(job.name for job in failed)
        raise RunError(f"{len(failed)} of {len(todo)} runs failed: {names}")
