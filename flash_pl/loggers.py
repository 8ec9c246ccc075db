"""The end of a run for its loggers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning.fabric.loggers.logger import Logger
from lightning.fabric.utilities import rank_zero_warn


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
