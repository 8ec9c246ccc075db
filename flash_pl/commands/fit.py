"""The commands ``flash-pl fit CONFIG KEY=VALUE ...`` and ``flash-pl validate CKPT KEY=VALUE ...``."""

import argparse
import functools
import time
from typing import Any

from lightning.pytorch.loggers.logger import DummyLogger
from rich.console import Console

from flash_pl.callbacks import (
    Checkpoint,
    ConsensusCSV,
    EarlyStopping,
    ErrorLog,
    Loggers,
    MetricsCSV,
    RunSummary,
    TensorBoard,
)
from flash_pl.callbacks.progress import progress_display
from flash_pl.checkpoint import LAST, CheckpointFolder, read_checkpoint, starting_point
from flash_pl.commands.help import fit_help
from flash_pl.commands.parser import add_config, add_overrides, command
from flash_pl.commands.result import summarize, write_result
from flash_pl.commands.screen import metrics_table, result_table
from flash_pl.config import (
    RunDir,
    build_data,
    build_loggers,
    build_module,
    build_trainer,
    by_config_key,
    check_loggers,
    compose,
    prepare,
    read_config,
    refuse_other,
    saved_config,
    to_repeat,
)
from flash_pl.data import torn_down
from flash_pl.errors import ModuleError, RunError
from flash_pl.launch import restarts
from flash_pl.saved_state import check_checkpoint


def add(commands: Any) -> None:
    parser = command(commands, "fit", fit, epilog=fit_help())
    add_config(parser)
    add_overrides(parser)
    parser = command(commands, "validate", validate)
    parser.add_argument("checkpoint", metavar="CKPT", help="a run's checkpoints/last.ckpt")
    add_overrides(parser)


def fit(options: argparse.Namespace) -> None:
    """Train, and write a run directory."""
    content = read_config(options.config)
    config = compose(content, options.arguments)
    check_loggers(config)
    data = build_data(config)
    module = build_module(config, data)
    directory = RunDir(config, to_repeat(content, options.arguments), restarted=restarts() > 0)
    monitor, mode = config["trainer"]["monitor"], config["trainer"]["monitor_mode"]
    metrics, consensus = MetricsCSV(directory.path), ConsensusCSV(directory.path)
    extra, every = {"config": directory.to_repeat}, config["trainer"]["checkpoint_every"]
    checkpoint = Checkpoint(directory.checkpoints, every, extra, monitor, mode)
    loggers, board = Loggers(directory.config, monitor), TensorBoard(directory.config, consensus, monitor)
    callbacks: list[Any] = [metrics, consensus, loggers, board, ErrorLog(directory.path), checkpoint]
    if config["trainer"]["patience"]:
        callbacks.append(EarlyStopping(monitor, mode, config["trainer"]["patience"]))
    if config["trainer"]["progress"]:
        callbacks.append(progress_display((monitor, "val_loss", "density")))
    if config["trainer"]["enable_model_summary"]:
        callbacks.append(RunSummary(directory.path))
    trainer = build_trainer(config, callbacks, [DummyLogger() for _ in config["logger"]])
    ranks = trainer.launch()
    with ranks.sharing_errors(), torn_down(data):
        # Whatever can go wrong goes wrong before a file of the directory is touched.
        prepare(data, ranks)
        with by_config_key():
            loop = trainer.loop(module, data)
        ckpt_path = _resume_from(config["ckpt_path"], checkpoint.folder)
        state = ranks.broadcast(lambda: starting_point(ckpt_path, checkpoint.folder))
        if state is not None:
            refuse_other(config, compose(saved_config(state, config["ckpt_path"])))
            trainer.resume(loop, state)
            for table in (metrics.table, consensus.table):
                ranks.broadcast(functools.partial(table.begin, loop.round))
        if ranks.rank == 0:  # the other processes keep loggers that do nothing
            trainer.fabric.loggers[:] = build_loggers(config, directory.path)
        ranks.broadcast(lambda: directory.open(resumed=state is not None, bytes_needed=checkpoint.bytes_needed(loop)))
        started, first = time.perf_counter(), loop.round
        try:
            trainer.run(loop)
        except RunError as error:
            if error.trace:
                raise RunError(f"{error}; its traceback is in {directory.path / 'errors.log'}") from error
            raise
        except ModuleError as error:  # found while a client trained
            raise RunError(str(error)) from error
        seconds = time.perf_counter() - started
        rows = metrics.table.rows
        seconds += sum(float(row["seconds"]) for row in rows if row.get("seconds") and int(row["round"]) <= first)

        def finish() -> dict[str, Any]:
            result = summarize(loop, config, seconds, rows)
            write_result(directory.result, result)
            return result

        result = ranks.broadcast(finish)
        if ranks.rank == 0:
            Console().print(result_table(result, directory.path, monitor, highest=mode == "max"), crop=False)


def _resume_from(ckpt_path: str | None, folder: CheckpointFolder) -> str | None:
    """The checkpoint to resume from; a process that torchrun has restarted takes its own, if it has saved one."""
    return LAST if restarts() and folder.files() else ckpt_path


def validate(options: argparse.Namespace) -> None:
    """Evaluate a checkpoint."""
    state = read_checkpoint(options.checkpoint)
    check_checkpoint(state, options.checkpoint)
    config = compose(saved_config(state, options.checkpoint), options.arguments)
    data = build_data(config)
    module = build_module(config, data)
    trainer = build_trainer(config)
    ranks = trainer.launch()
    with ranks.sharing_errors():
        prepare(data, ranks)
        with by_config_key():
            metrics = trainer.validate(module, data, options.checkpoint)
    if ranks.rank == 0:
        Console().print(metrics_table(metrics, options.checkpoint), crop=False)
