"""The server's half of a method: where its errors come from, and what its hooks must leave."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from flash_pl.errors import ConfigError, ModuleError, RunError, SchedulerError
from flash_pl.loops.faults import Fault, check_mask, reason
from flash_pl.schedulers import SparseScheduler
from flash_pl.server import ServerState


@contextmanager
def server_half(scheduler: SparseScheduler, hook: str, server: ServerState, round: int) -> Iterator[None]:
    """Around a ``hook`` of the server's half in the round with the index ``round``.

    Raises:
        SchedulerError: it has failed, or leaves the server a mask that is none.
    """
    try:
        yield
        check_mask(server.mask, server.layout.maskable)
    except (ConfigError, ModuleError, RunError):
        raise
    except Exception as error:
        where = f"{type(scheduler).__name__}.{hook} in round {round + 1}"
        if isinstance(error, Fault):
            raise SchedulerError(f"{where}: {error}") from error
        raise SchedulerError(f"{where}: {reason(error)}", traceback.format_exc()) from error


def check_offered(masks: Sequence[Tensor], server: ServerState, tiers: int) -> None:
    """Refuse all but a mask for each of the ``tiers``.

    Raises:
        Fault: which it is not.
    """
    if len(masks) != tiers:
        raise Fault(f"{len(masks)} masks for {tiers} tiers")
    for mask in masks:
        check_mask(mask, server.layout.maskable)
