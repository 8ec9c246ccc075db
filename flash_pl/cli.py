"""The command line: ``flash-pl fit``, ``validate`` and ``configs``."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from lightning.fabric.utilities import rank_zero_only
from rich.console import Console

from flash_pl import __version__
from flash_pl.callbacks import Board, Checkpoint, FaultLog, MetricsCSV, ProgressBar
from flash_pl.checkpoint import read_checkpoint
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
    starting_point,
)
from flash_pl.errors import ClientError, ConfigError, DataNotFoundError, Interrupted, ModuleError, RankError, RunError
from flash_pl.ranks import restarts
from flash_pl.result import summarize, write_result
from flash_pl.screen import fit_help, list_shipped, metrics_table, result_table


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
        return _end(128 + error.signal, f"{error}; the same command with ckpt_path=last goes on from there")
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


def fit(options: argparse.Namespace) -> None:
    """Train, and write a run directory."""
    config = compose(read_config(options.config), options.arguments)
    data = build_data(config)
    module = build_module(config, data)
    run = RunDir(config, restarted=restarts() > 0)
    table = MetricsCSV(run.path)
    keys = config["trainer"]
    checkpoint = Checkpoint(
        run.checkpoints, keys["checkpoint_every"], {"config": run.config}, keys["monitor"], keys["monitor_mode"]
    )
    callbacks: list[Any] = [table, Board(), FaultLog(run.path), checkpoint]
    if keys["progress"]:
        callbacks.append(ProgressBar(keys["monitor"]))
    trainer = build_trainer(config, callbacks, TensorBoardLogger(run.path, name="", version=""))
    ranks = trainer.launch()
    with ranks.telling():
        # All that can go wrong goes wrong before the directory is touched.
        prepare(data, ranks)
        loop = trainer.loop(module, data)
        state = ranks.first(lambda: starting_point(config["ckpt_path"], run))
        if state is not None:
            refuse_other(config, saved_config(state, config["ckpt_path"]))
            trainer.resume(loop, state)
        ranks.first(lambda: run.open(resumed=state is not None, room=checkpoint.room(loop)))
        started = time.perf_counter()
        try:
            trainer.run(loop)
        except ClientError as error:
            where = f"; its traceback is in {run.path / 'errors.log'}" if error.trace else ""
            raise ClientError(f"{error}{where}") from error
        except OSError as error:
            raise RunError(f"{error.filename or run.path}: {error.strerror or error}") from error
        seconds = time.perf_counter() - started
        if ranks.rank == 0:
            rounds = [float(row["seconds"]) for row in table.rows]
            result = summarize(loop, config, seconds, sum(rounds) / len(rounds) if rounds else None)
            write_result(run.result, result)
            Console().print(result_table(result, run.path))


def validate(options: argparse.Namespace) -> None:
    """Evaluate a checkpoint."""
    state = read_checkpoint(options.checkpoint)
    config = compose(saved_config(state, options.checkpoint), options.arguments)
    data = build_data(config)
    module = build_module(config, data)
    trainer = build_trainer(config)
    ranks = trainer.launch()
    with ranks.telling():
        prepare(data, ranks)
        metrics = trainer.validate(module, data, options.checkpoint)
    if ranks.rank == 0:
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
