"""What loggers get: the settings, the metrics of every round, and the final metrics."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from lightning.fabric.utilities import rank_zero_warn
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from yaml import YAMLError  # type: ignore[import-untyped]

from flash_pl.callbacks.base import Callback
from flash_pl.callbacks.csv import layer_metrics
from flash_pl.callbacks.metric_names import grouped
from flash_pl.errors import ConfigError, in_one_line
from flash_pl.loops import FederatedLoop
from flash_pl.loops.state import identity
from flash_pl.yaml12 import as_short_line


class Loggers(Callback):
    """Sends to every logger of the run the settings at its start, the metrics and layer densities of every round, and
    the final metrics (``final/accuracy``, ``final/MB_up``, ...) at its end. ``callbacks.TensorBoard`` does this for
    TensorBoard.

    Metrics are grouped (``accuracy/``, ``loss/``, ``mask/``, ``resources/``), see ``metric_names``. A resumed run
    continues the runs of ``WandbLogger`` and ``MLFlowLogger``: their ids are in the checkpoint. Rounds after the
    checkpoint are then in them twice.

    A logger that cannot start ends the run before its first round. A logger that fails later is left out for the rest
    of the run, with a warning.

    Args:
        config: the resolved config; without one the settings are those of trainer, module and data.
        monitor: the metric that the final metrics call accuracy.

    >>> import tempfile
    >>> from lightning.pytorch.loggers import CSVLogger
    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), logger=CSVLogger(tempfile.mkdtemp()))
    >>> [type(callback).__name__ for callback in trainer.callbacks if isinstance(callback, Loggers)]
    ['Loggers']

    Raises:
        ConfigError: a logger cannot start.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, monitor: str = "val_acc") -> None:
        self.config, self.monitor = config or {}, monitor
        self.guard = LoggerGuard()
        self._saved_runs: list[list[str]] = []

    def on_load_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        self._saved_runs = state.get("logger_runs", [])

    def on_save_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        state["logger_runs"] = self._runs

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.guard = LoggerGuard()
        continue_runs(loop.fabric.loggers, self._saved_runs)
        self._saved_runs = []
        settings = hyperparameters(self.config, everything=True) if self.config else facts(loop)
        for logger in _others(loop):
            try:
                _start(logger, settings)
            except (Exception, SystemExit) as error:
                problem = f"{type(logger).__name__} cannot start ({_reason(error)})"
                raise ConfigError("logger", problem, "correct its settings, or leave it out") from error
        self._runs = ids_of_runs(loop.fabric.loggers)

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        scalars = grouped(row, layer_metrics(loop), {*loop.evaluated, self.monitor})
        for logger in self.guard.working(_others(loop)):
            with self.guard(logger):
                logger.log_metrics(scalars, step=loop.round)

    def on_run_end(self, loop: FederatedLoop) -> None:
        for logger in self.guard.working(_others(loop)):
            with self.guard(logger):
                logger.log_metrics(final_metrics(loop, self.monitor), step=loop.round)


def _others(loop: FederatedLoop) -> list[Any]:
    """The loggers except TensorBoard's, which get everything from ``callbacks.TensorBoard``."""
    return [logger for logger in loop.fabric.loggers if not isinstance(logger, TensorBoardLogger)]


class LoggerGuard:
    """Lets a run go on without a logger that fails, for instance because a server does not answer.

    The logger is left out for the rest of the run: to wait for a server in every round would cost more than its curve.

    >>> from lightning.pytorch.loggers.logger import DummyLogger
    >>> guard, logger = LoggerGuard(), DummyLogger()
    >>> with guard(logger):
    ...     raise OSError("the server does not answer")
    >>> guard.working([logger])
    []
    """

    def __init__(self) -> None:
        self._failed: list[Any] = []

    def working(self, loggers: Sequence[Any]) -> list[Any]:
        """Those of the loggers that have not failed."""
        return [logger for logger in loggers if all(logger is not failed for failed in self._failed)]

    @contextmanager
    def __call__(self, logger: Any) -> Iterator[None]:
        """Turn an error of the logger in the block into a warning."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self._failed.append(logger)
            name = type(logger).__name__
            rank_zero_warn(f"{name} has failed, and the rest of the run goes on without it: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """Why a logger has failed, in one line: Lightning's TensorBoard takes a full disk for a value of a wrong type."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return in_one_line(error)


def _start(logger: Any, settings: Mapping[str, Any]) -> None:
    """Let the logger begin its run, and send it the settings."""
    if isinstance(logger, MLFlowLogger):
        settings = _new_parameters(logger, settings)
    try:
        logger.log_hyperparams(settings)
    except NotImplementedError:  # Fabric's CSVLogger
        pass


def _new_parameters(logger: MLFlowLogger, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that an MLflow run does not have yet.

    MLflow never changes a parameter. What a resumed run has changed, such as ``rounds``, becomes a tag.
    """
    client, run = logger.experiment, logger.run_id
    if not hasattr(client, "update_run") or run is None:  # on ranks that do not log
        return dict(settings)
    known = client.get_run(run).data.params
    client.update_run(run, status="RUNNING")  # it has ended if this run is resumed
    for name in settings.keys() & known.keys():
        if str(settings[name])[:250] != known[name]:  # Lightning sends as many characters
            client.set_tag(run, name, str(settings[name]))
    return {name: value for name, value in settings.items() if name not in known}


# Runs of loggers that a resumed run continues


def ids_of_runs(loggers: Sequence[Any]) -> list[list[str]]:
    """The ids by which W&B and MLflow know the run, each with the class of its logger."""
    kinds = (WandbLogger, MLFlowLogger)
    return [[type(logger).__name__, str(logger.version)] for logger in loggers if isinstance(logger, kinds)]


def continue_runs(loggers: Sequence[Any], saved: Sequence[Sequence[str]]) -> None:
    """Let loggers that have no run yet continue those in ``saved``, which ``ids_of_runs`` returned."""
    left = [tuple(entry) for entry in saved]
    for logger in loggers:
        known = next((entry for entry in left if entry[0] == type(logger).__name__), None)
        if known is None:
            continue
        left.remove(known)
        # Lightning's loggers take an id only when they are made, and these are made before a checkpoint is read.
        if isinstance(logger, WandbLogger) and logger.version is None:
            logger._id = logger._wandb_init["id"] = known[1]
        elif isinstance(logger, MLFlowLogger) and logger._run_id is None:
            logger._run_id = known[1]


# Metrics


def final_metrics(loop: FederatedLoop, monitor: str) -> dict[str, float]:
    """Return the metrics by which finished runs compare, as ``final/NAME``; those that the run does not have are left
    out."""
    row, totals = loop.metrics, loop.ledger.totals
    final = {"accuracy": row.get(monitor), "accuracy_union": row.get(f"{monitor}_union")}
    final |= {"MB_up": totals["bytes_up"] / 1e6, "MB_down": totals["bytes_down"] / 1e6}
    final |= {name: row.get(name) for name in ("flops_total", "fleet_seconds_total", "mismatch_clients")}
    return {f"final/{name}": value for name, value in final.items() if value is not None}


# Settings

COPIED_KEYS = {"clients", "batch_size", "seed", "alpha", "density"}  # of the top level; components get a copy


def facts(loop: FederatedLoop) -> dict[str, Any]:
    """Return the settings of a run without a config: the hyperparameters of module and data, and the trainer's own."""
    settings: dict[str, Any] = {**getattr(loop.data, "hparams", {}), **loop.client.module.hparams}
    settings |= {name: value for name, value in identity(loop).items() if value is not None}
    settings |= {name: getattr(loop.plan, name) for name in ("rounds", "cohort", "local_epochs")}
    return _plain(settings)


def hyperparameters(config: Mapping[str, Any], everything: bool = False) -> dict[str, Any]:
    """Return the settings in which experiments may differ, as dotted keys with plain values; lists become text.

    Left out are the loggers, the class path of a component that has a name, and a component's copy of a top-level key.
    A component's value that differs from the top-level key stays.

    Args:
        everything: with the settings of the machine.

    >>> scheduler = {"name": "nst", "class_path": "flash_pl.NST", "init_args": {"prune_rate": 0.2}}
    >>> hyperparameters({"seed": 1, "scheduler": scheduler, "data": {"init_args": {"seed": 1}}, "wire": {}})
    {'seed': 1, 'scheduler.name': 'nst', 'scheduler.prune_rate': 0.2}
    >>> hyperparameters({"seed": 1, "data": {"init_args": {"seed": 2}}, "trainer": {"threads": 1}}, everything=True)
    {'seed': 1, 'data.seed': 2, 'trainer.threads': 1}
    """
    settings: dict[str, Any] = {}
    for key, value in config.items():
        if key == "logger" or (key in ("trainer", "wire") and not everything):
            continue
        found = leaves(value, key)
        settings |= {name: leaf for name, leaf in found.items() if name == key or not _is_copy(name, leaf, config)}
    return _plain(settings)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, bool | int | float | str) else _as_text(value)
        for name, value in settings.items()
    }


def _as_text(value: Any) -> str:
    """A list or null as a user writes it; an object, which YAML cannot write, as Python does."""
    try:
        return as_short_line(value)
    except YAMLError:
        return str(value)


def leaves(node: Any, prefix: str) -> dict[str, Any]:
    """Return the values in a nested mapping by dotted keys; ``init_args`` adds nothing to a key.

    >>> leaves({"name": "nst", "init_args": {"prune_rate": 0.2}}, "scheduler"), leaves(5, "rounds")
    ({'scheduler.name': 'nst', 'scheduler.prune_rate': 0.2}, {'rounds': 5})
    """
    if not isinstance(node, Mapping):
        return {prefix: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == "class_path" and "name" in node:
            continue
        name = prefix if key == "init_args" else f"{prefix}.{key}"
        found |= leaves(value, name)
    return found


def _is_copy(name: str, value: Any, config: Mapping[str, Any]) -> bool:
    """Whether ``value``, at the dotted key ``name``, is a component's copy of a top-level key."""
    key = name.rpartition(".")[2]
    return key in COPIED_KEYS and key in config and config[key] == value
