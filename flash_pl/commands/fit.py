"""``flash-pl fit CONFIG KEY=VALUE ...``"""

import argparse
import functools
import time
from typing import Any

from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console

from flash_pl.callbacks import Checkpoint, ConsensusCSV, ErrorLog, MetricsCSV, ProgressBar, TensorBoard
from flash_pl.checkpoint import LAST, CheckpointFolder, starting_point
from flash_pl.commands.command import add_overrides, command
from flash_pl.commands.result import summarize, write_result
from flash_pl.commands.screen import fit_help, result_table
from flash_pl.config import (
    RunDir,
    build_data,
    build_module,
    build_trainer,
    by_config_key,
    compose,
    prepare,
    read_config,
    refuse_other,
    saved_config,
    to_repeat,
)
from flash_pl.errors import RunError
from flash_pl.launch import restarts


def add(commands: Any) -> None:
    parser = command(commands, run, epilog=fit_help())
    parser.add_argument("config", metavar="CONFIG", help="a shipped config (see flash-pl configs) or a YAML file")
    add_overrides(parser)


def run(options: argparse.Namespace) -> None:
    """Train, and write a run directory."""
    content = read_config(options.config)
    config = compose(content, options.arguments)
    data = build_data(config)
    module = build_module(config, data)
    directory = RunDir(config, to_repeat(content, options.arguments), restarted=restarts() > 0)
    metrics, consensus = MetricsCSV(directory.path), ConsensusCSV(directory.path)
    keys = config["trainer"]
    extra, every = {"config": directory.to_repeat}, keys["checkpoint_every"]
    checkpoint = Checkpoint(directory.checkpoints, every, extra, keys["monitor"], keys["monitor_mode"])
    board = TensorBoard(directory.config, consensus, keys["monitor"])
    callbacks: list[Any] = [metrics, consensus, board, ErrorLog(directory.path), checkpoint]
    if keys["progress"]:
        callbacks.append(ProgressBar((keys["monitor"], "val_loss", "density")))
    trainer = build_trainer(config, callbacks, TensorBoardLogger(directory.path, name="", version=""))
    ranks = trainer.launch()
    with ranks.sharing_errors():
        # All that can go wrong goes wrong before the directory is touched.
        prepare(data, ranks)
        with by_config_key():
            loop = trainer.loop(module, data)
        state = ranks.broadcast(
            lambda: starting_point(origin(config["ckpt_path"], checkpoint.folder), checkpoint.folder)
        )
        if state is not None:
            refuse_other(config, compose(saved_config(state, config["ckpt_path"])))
            trainer.resume(loop, state)
            for table in (metrics.table, consensus.table):
                ranks.broadcast(functools.partial(table.begin, loop.round))
        ranks.broadcast(lambda: directory.open(resumed=state is not None, room=checkpoint.bytes_needed(loop)))
        started, first = time.perf_counter(), loop.round
        try:
            trainer.run(loop)
        except RunError as error:
            if error.trace:
                raise RunError(f"{error}; its traceback is in {directory.path / 'errors.log'}") from error
            raise
        except OSError as error:
            raise RunError(f"{error.filename or directory.path}: {error.strerror or error}") from error
        seconds = time.perf_counter() - started
        if ranks.rank == 0:
            rows = metrics.table.rows
            seconds += sum(float(row["seconds"]) for row in rows if row.get("seconds") and int(row["round"]) <= first)
            result = summarize(loop, config, seconds, rows)
            write_result(directory.result, result)
            highest = keys["monitor_mode"] == "max"
            Console().print(result_table(result, directory.path, keys["monitor"], highest), crop=False)


def origin(ckpt_path: str | None, folder: CheckpointFolder) -> str | None:
    """What to go on from; a process that torchrun has restarted looks at what it has saved itself first."""
    return LAST if restarts() and folder.files() else ckpt_path
