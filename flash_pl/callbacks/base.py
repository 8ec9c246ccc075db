"""The loggers of a run, from its arguments to its end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from lightning.fabric.loggers.logger import Logger
from lightning.fabric.utilities import rank_zero_warn
from lightning.pytorch.callbacks import Callback as LightningCallback

from flash_pl.callbacks.tensorboard import Board
from flash_pl.checkpoint import CheckpointFolder
from flash_pl.errors import ConfigError


class Callback:
    pass


HOOKS = (
    "on_run_start",
    "on_first_stage_client_end",
    "on_first_mask",
    "on_client_end",
    "on_client_error",
    "on_round_end",
    "on_run_end",
    "on_run_abort",
    "on_save_checkpoint",
    "on_load_checkpoint",
)


class Callback:
    """The base class of a user's callbacks; a subclass overrides the hooks that it needs."""


def refuse_other_callbacks(callbacks: Sequence[Any]) -> None:
    """Callbacks have at least one of the hooks, and none that looks like one; a class, or a callback of Lightning's own
    Trainer, is none.

    Raises:
        ConfigError: no list, or what in it is no callback.
    """
    if not isinstance(callbacks, Sequence):
        raise ConfigError("callbacks", callbacks, "a list")
    for one in callbacks:
        if isinstance(one, LightningCallback | type) or not any(callable(getattr(one, hook, None)) for hook in HOOKS):
            usable = "objects with hooks of the loop, such as on_round_end(loop, row), which may set loop.should_stop"
            raise ConfigError("callbacks", one, f"{usable}; Lightning's Trainer calls other hooks")
        for name in sorted(set(dir(one)) - {*HOOKS, *dir(LightningCallback)}):
            if name.startswith("on_") and (near := get_close_matches(name, HOOKS, 1, 0.8)):
                raise ConfigError("callbacks", one, f"no {name}, which is never called; did you mean {near[0]}?")


def in_order(callbacks: Sequence[Any], loggers: Sequence[Logger]) -> tuple[Any, ...]:
    """The callbacks that a user gave, with a ``Board`` if there are loggers, those that save last: a checkpoint holds
    what the others have made of the round.

    Raises:
        ConfigError: what is no callback.
    """
    refuse_other_callbacks(callbacks)
    if loggers and not any(isinstance(one, Board) for one in callbacks):
        callbacks = [*callbacks, Board()]
    return tuple(sorted(callbacks, key=lambda one: isinstance(getattr(one, "folder", None), CheckpointFolder)))


def given_loggers(logger: Any) -> list[Logger]:
    """The loggers that a user gave: one, several, or none.

    Raises:
        ConfigError: what is no logger.
    """
    several = isinstance(logger, Sequence) and not isinstance(logger, str)
    loggers = [one for one in (logger if several else [logger]) if one]
    for one in loggers:
        if not isinstance(one, Logger):
            raise ConfigError("logger", one, "a Lightning logger, or a list of them")
    return loggers


@contextmanager
def finalized(loggers: Sequence[Logger]) -> Iterator[None]:
    """Afterwards the loggers have written what they hold, also if the run fails; they can log again in another run."""
    try:
        yield
    except BaseException:
        for logger in loggers:
            try:
                logger.finalize("failed")
            except Exception as error:  # what ended the run matters more
                rank_zero_warn(f"{type(logger).__name__} could not write its last values: {error}")
        raise
    for logger in loggers:
        logger.finalize("success")
