"""The loggers of a run, from its arguments to its end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.fabric.loggers.logger import Logger
from lightning.fabric.utilities import rank_zero_warn

from flash_pl.errors import ConfigError


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
