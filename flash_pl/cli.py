"""The command line: ``flash-pl fit``, ``validate`` and ``configs``."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console

from flash_pl import __version__
from flash_pl.callbacks import Board, Checkpoint, MetricsCSV, ProgressBar
from flash_pl.config import (
    RunDir,
    build_data,
    build_module,
    build_trainer,
    compose,
    prepare,
    read_config,
    refuse_other,
    saved_config,
)
from flash_pl.errors import ConfigError, DataNotFoundError, ModuleError
from flash_pl.result import summarize, write_result
from flash_pl.screen import fit_help, list_shipped, metrics_table, result_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, or 2 after one line on stderr that says what to correct."""
    options = _parser().parse_args(arguments)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a class_path may name a file that lies where the command is run
    try:
        options.command(options)
    except (ConfigError, DataNotFoundError, ModuleError) as error:
        print("flash-pl: error:", *str(error).split(), file=sys.stderr)  # one line, whatever the error quotes
        return 2
    except KeyboardInterrupt:
        print("flash-pl: interrupted; ckpt_path=RUN/checkpoints/last.ckpt goes on from there", file=sys.stderr)
        return 130
    return 0


def fit(options: argparse.Namespace) -> None:
    """Train, and write a run directory."""
    config = compose(read_config(options.config), options.arguments)
    data = build_data(config)
    module = build_module(config, data)
    run = RunDir(config)
    table = MetricsCSV(run.path)
    keys = config["trainer"]
    checkpoint = Checkpoint(run.checkpoints, keys["checkpoint_every"], extra={"config": run.config})
    callbacks: list[Any] = [table, Board(), checkpoint]
    if keys["progress"]:
        callbacks.append(ProgressBar(keys["monitor"]))
    trainer = build_trainer(config, callbacks, TensorBoardLogger(run.path, name="", version=""))
    # All that can go wrong goes wrong before the directory is touched.
    prepare(data)
    loop = trainer.loop(module, data)
    if config["ckpt_path"] is not None:
        refuse_other(config, saved_config(config["ckpt_path"]))
    run.open(resumed=config["ckpt_path"] is not None)
    started = time.perf_counter()
    trainer.run(loop, config["ckpt_path"])
    seconds = time.perf_counter() - started
    rounds = [float(row["seconds"]) for row in table.rows]
    result = summarize(loop, config, seconds, sum(rounds) / len(rounds) if rounds else None)
    write_result(run.result, result)
    Console().print(result_table(result, run.path))


def validate(options: argparse.Namespace) -> None:
    """Evaluate a checkpoint."""
    config = compose(saved_config(options.checkpoint), options.arguments)
    data = build_data(config)
    module = build_module(config, data)
    trainer = build_trainer(config)
    prepare(data)
    metrics = trainer.validate(module, data, options.checkpoint)
    Console().print(metrics_table(metrics, options.checkpoint))


def configs(options: argparse.Namespace) -> None:
    """List what is shipped."""
    print(list_shipped())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-pl",
        description="Federated sparse training: clients agree on one mask and train only that.",
        epilog="First steps: flash-pl fit jmwst; flash-pl configs; flash-pl fit --help",
    )
    parser.add_argument("--version", action="version", version=f"flash-pl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = _command(commands, "fit", fit, epilog=fit_help())
    command.add_argument("config", metavar="CONFIG", help="a shipped config (see flash-pl configs) or a YAML file")
    _add_arguments(command)
    command = _command(commands, "validate", validate)
    command.add_argument("checkpoint", metavar="CKPT", help="a run's checkpoints/last.ckpt")
    _add_arguments(command)
    _command(commands, "configs", configs)
    return parser


def _command(commands: Any, name: str, run: Callable[..., None], epilog: str = "") -> argparse.ArgumentParser:
    about = (run.__doc__ or "").rstrip(".")
    command = commands.add_parser(
        name, help=about, description=f"{about}.", epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.set_defaults(command=run)
    return command


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("arguments", metavar="KEY=VALUE", nargs="*", help="overrides, see flash-pl fit --help")
