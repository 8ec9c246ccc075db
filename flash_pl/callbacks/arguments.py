"""From the trainer's arguments ``callbacks`` and ``logger`` to the callbacks and loggers of a run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.utilities import rank_zero_warn

from flash_pl.callbacks.base import Callback
from flash_pl.callbacks.checkpoint import Checkpoint
from flash_pl.callbacks.progress import ProgressBar, ProgressLines, progress_display
from flash_pl.callbacks.run_summary import RunSummary
from flash_pl.callbacks.tensorboard import TensorBoard
from flash_pl.checks import check_booleans
from flash_pl.errors import ConfigError, as_yaml


def as_callbacks(
    callbacks: Sequence[Callback], loggers: Sequence[Logger], progress: bool = False, summary: bool = False
) -> tuple[Callback, ...]:
    """Return the callbacks of a run in the order in which they are called.

    What is not given and not switched off is added: a ``RunSummary``, a display of the progress, and a ``TensorBoard``
    if there are loggers. ``Checkpoint`` comes last: its file must show what the other callbacks have done after the
    round.

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
    if loggers and missing(TensorBoard):
        added.append(TensorBoard())
    return tuple(sorted([*callbacks, *added], key=lambda callback: isinstance(callback, Checkpoint)))


def _how_to_fix(value: object) -> str:
    """Say how to turn ``value``, which is not a ``Callback``, into one."""
    cls = value if isinstance(value, type) else type(value)
    if issubclass(cls, Callback):
        return f"pass an object of it: {cls.__name__}(...)"
    base = "a subclass of flash_pl.callbacks.Callback, whose on_round_end(loop, row) may set loop.should_stop"
    if issubclass(cls, L.Callback):
        return f"it has the hooks of Lightning's Trainer, which flash_pl does not call; write {base}"
    return f"pass an object of {base}"


def as_loggers(logger: Any) -> list[Logger]:
    """Return the loggers of a run from one logger, a list of them, or None.

    >>> as_loggers(None)
    []
    >>> as_loggers("tensorboard")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: logger: 'tensorboard' is not a Lightning logger; pass one, or a list of them

    Raises:
        ConfigError: a value is not a logger.
    """
    values = logger if isinstance(logger, Sequence) and not isinstance(logger, str) else [logger]
    loggers = [value for value in values if value]
    for value in loggers:
        if not isinstance(value, Logger):
            raise ConfigError("logger", f"{as_yaml(value)} is not a Lightning logger", "pass one, or a list of them")
    return loggers


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
            except Exception as error:  # the error that ended the run matters more: it is raised, this one only shown
                rank_zero_warn(f"{type(logger).__name__} could not write its last values: {error}")
        raise
    for logger in loggers:
        logger.finalize("success")
