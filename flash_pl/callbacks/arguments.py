"""From the trainer's arguments ``callbacks`` and ``logger`` to the callbacks and loggers of a run."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import lightning as L
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from lightning.fabric.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch import loggers as pl_loggers
from lightning.pytorch.loggers.logger import DummyLogger

from flash_pl.callbacks.base import Callback
from flash_pl.callbacks.checkpoint import Checkpoint
from flash_pl.callbacks.loggers import Loggers
from flash_pl.callbacks.progress import ProgressBar, ProgressLines, progress_display
from flash_pl.callbacks.run_summary import RunSummary
from flash_pl.callbacks.tensorboard import TensorBoard
from flash_pl.checks import check_booleans
from flash_pl.errors import ConfigError, as_yaml, in_one_line


def as_callbacks(
    callbacks: Sequence[Callback], loggers: Sequence[Logger], progress: bool = False, summary: bool = False
) -> tuple[Callback, ...]:
    """Return the callbacks of a run in the order in which they are called.

    What is not given and not switched off is added: a ``RunSummary``, a display of the progress, ``Loggers`` if there
    are loggers, and ``TensorBoard`` if one of them is TensorBoard's. ``Checkpoint`` comes last: its file must show what
    the other callbacks have done after the round.

    >>> from flash_pl.callbacks import History
    >>> [type(callback).__name__ for callback in as_callbacks([Checkpoint("runs/1"), History()], loggers=[])]
    ['History', 'Checkpoint']
    >>> as_callbacks([History], loggers=[])
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: callbacks: the class History is not a callback; pass an object of it: History(...)

    Raises:
        ConfigError: ``callbacks`` is not a list of ``Callback`` objects.
    """
    check_booleans(enable_progress_bar=progress, enable_model_summary=summary)
    if not isinstance(callbacks, Sequence):
        raise ConfigError("callbacks", f"{as_yaml(callbacks)} is not a list")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError("callbacks", f"{as_yaml(callback)} is not a callback", _how_to_fix(callback))

    def missing(*kinds: type[Callback]) -> bool:
        return not any(isinstance(callback, kinds) for callback in callbacks)

    added: list[Callback] = []
    if summary and missing(RunSummary):
        folders = [callback.folder.path for callback in callbacks if isinstance(callback, Checkpoint)]
        added.append(RunSummary(*folders[:1]))
    if progress and missing(ProgressBar, ProgressLines):
        added.append(progress_display())
    if loggers and missing(Loggers):
        added.append(Loggers())
    if any(isinstance(logger, TensorBoardLogger) for logger in loggers) and missing(TensorBoard):
        added.append(TensorBoard())
    return tuple(sorted([*callbacks, *added], key=lambda callback: isinstance(callback, Checkpoint)))


# Names of Lightning's callbacks, each with what does the same here.
AVERAGE = "use round_average=, an average of the server's models over rounds"
INSTEAD = {
    "EarlyStopping": "use flash_pl.callbacks.EarlyStopping",
    "Checkpoint": "use flash_pl.callbacks.Checkpoint",
    "ProgressBar": "flash_pl.callbacks.ProgressBar is there by default",
    "ModelSummary": "flash_pl.callbacks.RunSummary is there by default",
    "LearningRateMonitor": "the metrics have a column lr_scale, the factor of the module's learning rates in a round",
    "WeightAveraging": AVERAGE,
    "StochasticWeightAveraging": AVERAGE,
    "ModelPruning": "the sparse scheduler prunes, the first argument of FederatedTrainer",
}


def _how_to_fix(value: object) -> str:
    """Say how to turn ``value``, which is not a ``Callback``, into one."""
    cls = value if isinstance(value, type) else type(value)
    if issubclass(cls, Callback):
        return f"pass an object of it: {cls.__name__}(...)"
    if issubclass(cls, Logger):
        return f"give it as a logger: logger={cls.__name__}(...)"
    base = "a subclass of flash_pl.callbacks.Callback, whose on_round_end(loop, row) may set loop.should_stop"
    if issubclass(cls, L.Callback):
        instead = next((INSTEAD[kind.__name__] for kind in cls.__mro__ if kind.__name__ in INSTEAD), f"write {base}")
        return f"it has the hooks of Lightning's Trainer, which flash_pl does not call; {instead}"
    return f"pass an object of {base}"


def as_loggers(logger: Any) -> list[Logger]:
    """Return the loggers of a run from a logger, the name of one, a list of both, True, False or None.

    The names are those in ``NAMED``. As in Lightning, True is TensorBoard, and files are in the working directory.

    >>> as_loggers(None), as_loggers(False)
    ([], [])
    >>> [type(logger).__name__ for logger in as_loggers(["tensorboard", "csv"])]
    ['TensorBoardLogger', 'CSVLogger']
    >>> as_loggers("tensorbord")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: logger: 'tensorbord' is not a known logger; choose tensorboard, csv, wandb or mlflow

    Raises:
        ConfigError: a value is not a logger, or a package is not installed.
    """
    values = logger if isinstance(logger, Sequence) and not isinstance(logger, str) else [logger]
    return [_as_logger(value) for value in values if value is not None and value is not False]


def _as_logger(value: Any) -> Logger:
    if isinstance(value, Logger):
        return value
    if value is True:
        value = "tensorboard"
    *most, last = NAMED
    names = f"{', '.join(most)} or {last}"
    if not isinstance(value, str):
        hint = f"pass one, a list of them, or names: {names}"
        raise ConfigError("logger", f"{as_yaml(value)} is not a Lightning logger", hint)
    if value not in NAMED:
        raise ConfigError("logger", f"{as_yaml(value)} is not a known logger", f"choose {names}")
    check_installed(value, "logger")
    # Other processes would make a database at the same time, and log nothing.
    return DummyLogger() if getattr(rank_zero_only, "rank", 0) else NAMED[value]()


NAMED: dict[str, Callable[[], Logger]] = {
    "tensorboard": lambda: pl_loggers.TensorBoardLogger("."),
    "csv": lambda: pl_loggers.CSVLogger("."),
    "wandb": pl_loggers.WandbLogger,
    # Newer versions of MLflow refuse the folder mlruns, which is Lightning's default.
    "mlflow": lambda: pl_loggers.MLFlowLogger(
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    ),
}


def check_installed(name: str, key: str) -> None:
    """Check that the package of the logger ``name`` is installed; it has the name of the logger.

    Raises:
        ConfigError: it is not.
    """
    if find_spec(name) is None:
        problem = f"'{name}' needs the package {name}, which is not installed"
        raise ConfigError(key, problem, f'run: pip install "flash-pl[{name}]"')


@contextmanager
def finalizing(loggers: Sequence[Logger]) -> Iterator[None]:
    """Finalize the loggers at the end of the block, also if it fails, so that they write their buffered values.

    The loggers can be used again in another run.
    """
    try:
        yield
    except BaseException:
        for logger in loggers:
            try:
                logger.finalize("failed")
            except (Exception, SystemExit) as error:  # the error that ended the run is raised, this one only shown
                rank_zero_warn(f"{type(logger).__name__} could not write its last values: {in_one_line(error)}")
        raise
    for logger in loggers:
        try:
            logger.finalize("success")
        except (Exception, SystemExit) as error:  # the run itself is complete
            rank_zero_warn(f"{type(logger).__name__} could not write its last values: {in_one_line(error)}")
