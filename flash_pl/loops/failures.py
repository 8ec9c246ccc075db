"""What counts as a failure, of a client or of a scheduler's server hook, and how it is described."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.client import ClientState
from flash_pl.errors import EXPLAINED, RunError, SchedulerError, as_yaml, describe_error, is_of_user, traceback_of
from flash_pl.loops.misfit import misfit
from flash_pl.server import ServerState
from flash_pl.sparsity import Layout, mask_problem, unchanged


class Fault(Exception):
    """A failure found by a check; user code raised nothing, so there is no traceback."""


def diverged(problem: str, client: ClientState) -> Fault:
    """The failure of a client whose training has led to numbers that are not finite or too large.

    Args:
        problem: the first such number, a clause such as "its loss is not finite".
        client: still has the trained weights and the optimizer.
    """
    facts = []
    if client.optimizer is not None:
        rates = [float(group["lr"]) * client.rates.lr_scale for group in client.optimizer.param_groups if "lr" in group]
        facts = [f"learning rate {max(rates):g}"] if rates else []
    finite = client.arena[client.arena.isfinite()].abs()
    facts.append(f"largest finite weight {float(finite.max()):.3g}" if finite.numel() else "no weight is finite")
    return Fault(f"training diverged: {problem} ({', '.join(facts)}); use a smaller lr")


@dataclass(frozen=True)
class Failure:
    """A client that failed.

    Attributes:
        client: id of the client.
        round: counted from 1; 0 is stage 1.
        reason: one line.
        trace: traceback of the exception; empty for a ``Fault``.
    """

    client: int
    round: int
    reason: str
    trace: str

    @classmethod
    def of(cls, error: Exception, client: int, round: int) -> "Failure":
        """The failure behind an exception that is being handled."""
        if isinstance(error, Fault):
            return cls(client, round, str(error), "")
        return cls(client, round, misfit(error) or describe_error(error), traceback_of(error))

    def __str__(self) -> str:
        where = f"round {self.round}" if self.round else "stage 1"
        return f"client {self.client} in {where}: {self.reason}"


def explained(error: BaseException, round: int) -> BaseException:
    """The error with which a run ends that ``error`` has stopped in the round with index ``round``.

    An exception of code that is not ours, such as a data set, becomes a ``RunError`` in one line; so does a
    ``sys.exit()``, which would end only one process of several.

    >>> explained(ZeroDivisionError("division by zero"), round=2)
    RunError('round 3: ZeroDivisionError: division by zero')
    """
    if isinstance(error, (*EXPLAINED, KeyboardInterrupt)):
        return error
    if isinstance(error, OSError) and error.filename and not is_of_user(error):
        return RunError(f"{error.filename}: {error.strerror or error}", traceback_of(error))
    return RunError(f"round {round + 1}: {describe_error(error)}", traceback_of(error))


def check_mask(mask: object, maskable: int) -> None:
    """Check that ``mask`` is a bool tensor of shape ``[maskable]``.

    Raises:
        Fault: its type, dtype or shape is another one.
    """
    if problem := mask_problem(mask, maskable):
        raise Fault(f"its mask {problem}")


def check_frozen(layout: Layout, before: Tensor, after: Tensor) -> None:
    """Check that a client's training has changed no parameter that was frozen when the run began.

    Raises:
        Fault: names a parameter that has changed.
    """
    if (name := layout.changed_frozen(before, after)) is not None:
        hint = "begin with requires_grad=True and freeze it in a hook"
        raise Fault(f"{name} was frozen when the run began, so it is not sent, but training has changed it; {hint}")


def check_tier_masks(masks: object, server: ServerState, tiers: int) -> None:
    """Check that there is exactly one valid mask per tier.

    Raises:
        Fault: they are no list or tuple, or their number, or dtype or shape of one, is wrong.
    """
    if not isinstance(masks, list | tuple):
        raise Fault(f"it returns {as_yaml(masks)}, not a list with the mask of each tier")
    if len(masks) != tiers:
        raise Fault(f"{len(masks)} masks for {tiers} tiers")
    for mask in masks:
        check_mask(mask, server.layout.maskable)


def check_weights(weights: object, size: int, dtype: torch.dtype | None = None) -> None:
    """Check that ``weights`` are the finite weights of a model, ``[size]``, of any dtype if it is None.

    Raises:
        Fault: they are something else, or have another shape or dtype, or some are infinite or NaN.
    """
    if not isinstance(weights, Tensor) or weights.shape != (size,):
        kind = f"a tensor of shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else type(weights).__name__
        raise Fault(f"the server's weights are {kind}, not a tensor of shape ({size},)")
    if weights.dtype != (dtype or weights.dtype):
        raise Fault(f"the server's weights are {weights.dtype}, not {dtype}")
    if wrong := size - int(weights.isfinite().sum()):
        raise Fault(f"{wrong} of the server's {size} weights are not finite")


@contextmanager
def server_hook(owner: object, hook: str, server: ServerState, round: int) -> Iterator[None]:
    """Around a call of the method ``hook`` of a scheduler, or of another part of the server, in the round with index
    ``round``.

    Raises:
        SchedulerError: the method raised an exception, left an invalid mask at the server, or changed the server's mask
            in place.
    """
    where = f"{type(owner).__name__}.{hook} in round {round + 1}"
    try:
        with unchanged(server.mask, where, "make a new tensor"):
            yield
        check_mask(server.mask, server.layout.maskable)
    except EXPLAINED:
        raise
    except (Exception, SystemExit, GeneratorExit) as error:
        cause = error
        try:
            check_mask(server.mask, server.layout.maskable)
        except Fault as fault:  # whatever has failed after it
            cause = fault
        if isinstance(cause, Fault):
            raise SchedulerError(f"{where}: {cause}") from error
        raise SchedulerError(f"{where}: {describe_error(error)}", traceback_of(error)) from error
