"""The callbacks of a run, from a trainer's arguments."""

from collections.abc import Sequence
from typing import Any

from lightning.fabric.loggers.logger import Logger

from flash_pl.callbacks.board import Board
from flash_pl.checkpoint import CheckpointFolder
from flash_pl.loops import refuse_other_callbacks


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
