"""The commands ``flash-pl fit CONFIG KEY=VALUE ...`` and ``flash-pl validate CKPT KEY=VALUE ...``."""

import argparse
import functools
import time
from collections.abc import Mapping
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
from flash_pl.commands.parser import add_config, add_overrides, add_trust, command
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
    foreign_names,
    names_of,
    network_prefix,
    own_names,
    prepare,
    read_config,
    read_dotlist,
    refuse_other,
    saved_config,
    to_repeat,
)
from flash_pl.data import torn_down
from flash_pl.errors import RunError
from flash_pl.launch import restarts, starts_as_rank_0


def add(commands: Any) -> None:
    parser = command(commands, "fit", fit, epilog=fit_help())
    add_config(parser)
    add_overrides(parser)
    parser = command(commands, "validate", validate)
    parser.add_argument("checkpoint", metavar="CKPT", help="a run's checkpoints/last.ckpt")
    add_trust(parser)
    add_overrides(parser)


def fit(options: argparse.Namespace) -> None:
    """Train, and write a run directory."""
    content = read_config(options.config)
    config = compose(content, options.arguments)
    check_loggers(config)
    data = build_data(config)
    module = build_module(config, data)
    directory = RunDir(config, to_repeat(content, options.arguments), restarted=restarts() > 0)
    with directory.claimed(writes=starts_as_rank_0()):
        monitor, mode = config["trainer"]["monitor"], config["trainer"]["monitor_mode"]
        metrics, consensus = MetricsCSV(directory.path), ConsensusCSV(directory.path)
        every = config["trainer"]["checkpoint_every"]
        extra = {"config": directory.to_repeat, "names": names_of(config), "network_prefix": network_prefix(config)}
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
            for table in (metrics.table, consensus.table):  # only rank 0 has chosen the directory
                table.path = ranks.broadcast(functools.partial(getattr, table, "path"))
            # Whatever can go wrong goes wrong before a file of the directory is touched.
            prepare(data, ranks)
            with by_config_key():
                loop = trainer.loop(module, data)
            ckpt_path = _resume_from(config["ckpt_path"], checkpoint.folder)
            state = ranks.broadcast(lambda: starting_point(ckpt_path, checkpoint.folder))
            if state is not None:
                refuse_other(config, _config_of(state, config))
                with by_config_key():
                    trainer.resume(loop, state)
                for table in (metrics.table, consensus.table):
                    ranks.broadcast(functools.partial(table.begin, loop.round))
            ranks.broadcast(lambda: directory.check_space(checkpoint.bytes_needed(loop)))
            if ranks.rank == 0:  # the other processes keep loggers that do nothing
                trainer.fabric.loggers[:] = build_loggers(config, directory.path)
            ranks.broadcast(lambda: directory.open(resumed=state is not None))
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
                rows = metrics.table.rows()
                seconds += sum(
                    float(row["seconds"]) for row in rows if row.get("seconds") and int(row["round"]) <= first
                )
                result = summarize(loop, config, seconds, rows)
                write_result(directory.result, result)
                own_code = bool(own_names(config))
                Console().print(result_table(result, directory.path, monitor, mode == "max", own_code), crop=False)


def _resume_from(ckpt_path: str | None, folder: CheckpointFolder) -> str | None:
    """The checkpoint to resume from; a process that torchrun has restarted takes its own, if it has saved one."""
    return LAST if restarts() and folder.files() else ckpt_path


def _config_of(state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the checkpoint from which a run with ``config`` is resumed; no class of it is used that the run's
    own config does not name."""
    saved = saved_config(state, config["ckpt_path"])
    with foreign_names(config["ckpt_path"], saved, own=config):
        return compose(saved)


def validate(options: argparse.Namespace) -> None:
    """Evaluate a checkpoint."""
    state = read_checkpoint(options.checkpoint)
    saved = saved_config(state, options.checkpoint)
    with foreign_names(options.checkpoint, saved, own=read_dotlist(options.arguments), trust=options.trust):
        config = compose(saved, options.arguments)
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
