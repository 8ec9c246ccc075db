"""The commands ``flash-pl fit CONFIG KEY=VALUE ...`` and ``flash-pl validate CKPT KEY=VALUE ...``."""

import argparse
import functools
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.loggers.logger import DummyLogger
from rich.console import Console

from flash_pl.callbacks import (
    Callback,
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
from flash_pl.checkpoint import LAST, CheckpointFolder, checkpoint_file, read_checkpoint, starting_point
from flash_pl.commands.result import summarize, write_result
from flash_pl.commands.screen import metrics_table, result_table
from flash_pl.config import (
    RunDir,
    about_cohort,
    arguments_to_go_on,
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
from flash_pl.environment import restarts, starts_as_rank_0
from flash_pl.errors import ConfigError, ModuleError, RunError
from flash_pl.loops import FederatedLoop
from flash_pl.saved_state import check_checkpoint


def composed(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], Any, Any]:
    """Return the config, the one that repeats the run, the data (not loaded yet) and the module."""
    content = read_config(options.config)
    config = compose(content, options.arguments)
    check_loggers(config)
    data = build_data(config)
    module = build_module(config, data)
    if (notice := about_cohort(content, options.arguments)) and starts_as_rank_0():
        print(f"flash-pl: notice: {notice}", file=sys.stderr)
    return config, to_repeat(content, options.arguments), data, module


def fit(options: argparse.Namespace) -> None:
    """Train, and write a run directory."""
    config, repeat, data, module = composed(options)
    directory = RunDir(config, repeat, restarted=restarts() > 0)
    with directory.claimed(writes=starts_as_rank_0()):
        metrics, consensus = MetricsCSV(directory.path), ConsensusCSV(directory.path)
        checkpoint = _checkpoint(config, directory)
        error_log = ErrorLog(directory.path)
        callbacks = _callbacks(config, directory, metrics, consensus, error_log, checkpoint)
        trainer = build_trainer(config, list(callbacks), [DummyLogger() for _ in config["logger"]])
        ranks = trainer.launch()
        with ranks.sharing_errors(), torn_down(data):
            directory.path = error_log.directory = ranks.broadcast(lambda: directory.path)  # only rank 0 has chosen it
            # Whatever can go wrong goes wrong before a file of the directory is touched.
            prepare(data, ranks)
            with by_config_key():
                loop = trainer.loop(module, data)
            ckpt_path = _resume_from(config["ckpt_path"], checkpoint.folder)
            state = ranks.broadcast(lambda: starting_point(ckpt_path, checkpoint.folder))
            if state is not None:
                refuse_other(config, _config_of(state, config, directory.to_repeat))
                with by_config_key():
                    trainer.resume(loop, state)
                for table in (metrics.table, consensus.table):
                    ranks.broadcast(functools.partial(table.begin, loop.round))
            ranks.broadcast(lambda: directory.check_space(checkpoint.bytes_needed(loop)))
            if ranks.rank == 0:  # the other processes keep loggers that do nothing
                trainer.fabric.loggers[:] = build_loggers(config, directory.path)
            ranks.broadcast(lambda: directory.open(resumed=state is not None))
            started, first = time.perf_counter(), loop.round
            with _errors_of_the_run(loop, directory):
                trainer.run(loop)
            seconds = time.perf_counter() - started

            def finish() -> dict[str, Any]:
                rows = metrics.table.rows()
                earlier = [float(row["seconds"]) for row in rows if row.get("seconds") and int(row["round"]) <= first]
                command_line = shlex.join(["flash-pl", "fit", options.config, *options.arguments])
                result = summarize(loop, config, seconds + sum(earlier), rows, command_line)
                write_result(directory.result, result)
                return result

            result = ranks.broadcast(finish)
            if ranks.rank == 0:
                monitor, mode = config["trainer"]["monitor"], config["trainer"]["monitor_mode"]
                own_code = bool(own_names(config))
                to_go_on = arguments_to_go_on(directory.to_repeat, 2 * loop.round)
                shown = result_table(result, directory.path, monitor, mode == "max", to_go_on, own_code)
                Console().print(shown, crop=False)


def _checkpoint(config: Mapping[str, Any], directory: RunDir) -> Checkpoint:
    """The callback that saves the run, with its config."""
    options = config["trainer"]
    extra = {"config": directory.to_repeat, "names": names_of(config), "network_prefix": network_prefix(config)}
    monitor, mode = options["monitor"], options["monitor_mode"]
    return Checkpoint(directory.checkpoints, options["checkpoint_every"], extra, monitor, mode)


def _callbacks(
    config: Mapping[str, Any],
    directory: RunDir,
    metrics: MetricsCSV,
    consensus: ConsensusCSV,
    error_log: ErrorLog,
    checkpoint: Checkpoint,
) -> Iterator[Callback]:
    """All callbacks in their order: what a round has left behind is complete before it is saved."""
    options = config["trainer"]
    yield metrics
    yield consensus
    yield Loggers(directory.config, options["monitor"])
    given = directory.to_repeat["given"]
    yield TensorBoard(directory.config, consensus, options["monitor"], options["monitor_mode"], given)
    yield error_log
    yield checkpoint
    if options["patience"]:
        yield EarlyStopping(options["monitor"], options["monitor_mode"], options["patience"])
    if options["progress"]:
        shares = {options["monitor"]} if options["monitor_mode"] == "max" else set()
        density = "density_flops" if config["density_of"] == "flops" else "density"
        yield progress_display((options["monitor"], "val_loss", density), shares)
    if options["enable_model_summary"]:
        yield RunSummary(directory.path)


@contextmanager
def _errors_of_the_run(loop: FederatedLoop, directory: RunDir) -> Iterator[None]:
    """An error that ends the run is a ``RunError``, which says where its traceback is."""
    try:
        yield
    except RunError as error:
        if error.trace:
            raise RunError(f"{error}; its traceback is in {directory.path / 'errors.log'}") from error
        raise
    except (ConfigError, ModuleError) as error:
        if not loop.has_mask:  # nothing has been trained
            raise
        raise RunError(str(error)) from error


def _resume_from(ckpt_path: str | None, folder: CheckpointFolder) -> str | None:
    """The checkpoint to resume from; a process that torchrun has restarted takes its own, if it has saved one."""
    return LAST if restarts() and folder.files() else ckpt_path


def _config_of(state: Mapping[str, Any], config: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the checkpoint from which a run is resumed.

    No class of it is used, and no environment variable, that the run's own config does not name.

    Args:
        state: the content of the checkpoint.
        config: of the run.
        written: the same with its references.
    """
    path = config["ckpt_path"] or LAST  # torchrun has restarted a run
    saved = saved_config(state, path)
    with foreign_names(path, saved, own=[config, written], remedy="resume it with the config of its own run"):
        return compose(saved)


def validate(options: argparse.Namespace) -> None:
    """Evaluate a checkpoint."""
    path = checkpoint_file(options.checkpoint)
    state = read_checkpoint(path)
    check_checkpoint(state, path)
    saved = saved_config(state, path)
    with foreign_names(path, saved, own=read_dotlist(options.arguments), trust=options.trust):
        config = compose(saved, options.arguments)
        data = build_data(config)
        module = build_module(config, data)
        trainer = build_trainer(config)
    ranks = trainer.launch()
    with ranks.sharing_errors():
        prepare(data, ranks)
        with by_config_key():
            metrics = trainer.validate(module, data, path)
    if ranks.rank == 0:
        shares = config["trainer"]["monitor"] if config["trainer"]["monitor_mode"] == "max" else ""
        Console().print(metrics_table(metrics, path, shares), crop=False)
