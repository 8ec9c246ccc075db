"""What a mask must be, and that nobody changes one in place: server, tiers and clients often hold the same tensor."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from flash_pl.errors import SchedulerError


def mask_problem(mask: object, maskable: int) -> str:
    """What is wrong with a mask that should be bool ``[maskable]``; empty if nothing is.

    >>> mask_problem(torch.ones(3), maskable=3)
    'is torch.float32 of shape (3,), not torch.bool of shape (3,)'
    """
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (maskable,):
        return ""
    kind = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    return f"is {kind}, not torch.bool of shape ({maskable},)"


def changes_of(mask: Tensor) -> int:
    """How often a tensor was changed in place; torch does not count this for tensors of its inference mode.

    >>> mask = torch.tensor([True, False])
    >>> before = changes_of(mask)
    >>> mask[0] = False
    >>> changes_of(mask) - before
    1
    """
    return 0 if mask.is_inference() else mask._version


@contextmanager
def unchanged(mask: Tensor, who: str, remedy: str) -> Iterator[None]:
    """Around code of others that must not change ``mask``, not even if it fails; see ``check_unchanged``."""
    changes = changes_of(mask)
    try:
        yield
    finally:
        check_unchanged(mask, changes, who, remedy)


def check_unchanged(mask: Tensor, changes: int, who: str, remedy: str) -> None:
    """Check that a mask is as it was when ``changes_of`` gave ``changes``.

    Args:
        mask: that of the server, a tier or a client.
        changes: in place, up to a moment before the code of ``who`` ran.
        who: for the message, such as "MyScheduler.on_aggregate in round 3".
        remedy: what to do instead.

    Raises:
        SchedulerError: it was changed in place since then.
    """
    if changes_of(mask) != changes:
        raise SchedulerError(f"{who}: a mask was changed in place that clients and server share; {remedy}")
