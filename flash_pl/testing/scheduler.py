"""The contract of a method of sparse training."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flash_pl.costs import WireFormat
from flash_pl.loops import FederatedLoop
from flash_pl.report import Report
from flash_pl.schedulers import SparseScheduler
from flash_pl.sparsity import SparsityBudget, Tier, total_count
from flash_pl.testing.setting import ROUNDS, train

TIERS = (0.4, 0.7, 1.0)  # densities of the tiers over the largest


def check_scheduler(
    make: Callable[[], SparseScheduler], density: float = 0.2, upload: float | None = None, server: float | None = None
) -> None:
    """Train small federations with a method, and check the rules of ``SparseScheduler``.

    - Masks are bool, one for every maskable weight; weights outside a client's mask are 0, and all are finite.
    - Clients send at most d n weights, the server's mask holds at most d n; with tiers of devices each keeps to its
      own, and their masks are nested.
    - The same run gives the same bits: again; in pieces, going on from a checkpoint with a new scheduler; with
      clients in processes of their own, so that one client's hooks cannot remember anything for the next; and with
      reports that were written to bytes and read.

    It takes a few seconds on one core.

    Args:
        make: a new scheduler with the same settings at each call, such as ``lambda: MyMethod(rate=0.3)``.
        density: d, of 584 weights.
        upload: what clients may send at most, if it is more than d (1 for dense methods).
        server: what the server's mask may hold at most, if it is more than d.

    Raises:
        AssertionError: a rule is broken; it says which one.

    >>> from flash_pl.schedulers import PDST
    >>> check_scheduler(PDST)
    """
    limits = Limits(density if upload is None else upload, density if server is None else server)
    whole = train(make(), density, callbacks=[limits])
    _same(whole, train(make(), density), "a second run")
    _same(whole, train(make(), density, forgetful=True), "a run that forgets the scheduler after every client")
    _same(whole, train(make(), density, wire=WireFormat(verify=True)), "a run whose reports were sent as bytes")
    with tempfile.TemporaryDirectory() as folder:
        train(make(), density, ROUNDS // 2, checkpoint=Path(folder))
        _same(whole, train(make(), density, checkpoint=Path(folder), resume=True), "a run that was interrupted")

    budget = SparsityBudget([Tier(ratio * density, 1 / len(TIERS)) for ratio in TIERS])
    beyond = limits.upload - density
    of_tiers = [ratio * density + beyond if limits.upload < 1 else 1.0 for ratio in TIERS]
    train(make(), density, budget=budget, callbacks=[Limits(limits.upload, limits.server, of_tiers)])


class Limits:
    """Checks what clients send and what the server keeps.

    Args:
        upload, server: densities that a report and the server's mask may have.
        tiers: those of reports from each tier of devices.
    """

    def __init__(self, upload: float, server: float, tiers: Sequence[float] | None = None) -> None:
        self.upload, self.server, self.tiers = upload, server, tiers

    def on_client_end(self, loop: FederatedLoop, report: Report) -> None:
        """A report."""
        maskable = loop.server.layout.maskable
        _is_mask(report.mask, loop, "the mask of a client")
        assert report.weights.isfinite().all(), "the weights of a client are not finite"
        outside = report.weights[:maskable][~report.mask]
        assert not outside.any(), f"{int(outside.count_nonzero())} weights outside of a client's mask are not 0"
        limit = self.upload if self.tiers is None else self.tiers[report.tier]
        _at_most(report.mask, limit, loop, f"a client of tier {report.tier}")

    def on_round_end(self, loop: FederatedLoop, row: dict[str, Any]) -> None:
        """The server after a round."""
        _is_mask(loop.server.mask, loop, "the server's mask")
        assert loop.server.weights.isfinite().all(), "the server's weights are not finite"
        _at_most(loop.server.mask, self.server, loop, "the server's mask")
        for small, large in zip(loop.masks, loop.masks[1:], strict=False):
            assert not (small & ~large).any(), "the masks of the tiers are not nested"
        assert torch.equal(loop.masks[-1], loop.server.mask), "the largest tier's mask is not the server's"


def _is_mask(mask: Tensor, loop: FederatedLoop, what: str) -> None:
    expected = (loop.server.layout.maskable,)
    assert mask.dtype == torch.bool and tuple(mask.shape) == expected, f"{what} is no bool tensor of shape {expected}"


def _at_most(mask: Tensor, density: float, loop: FederatedLoop, what: str) -> None:
    held, allowed = int(mask.count_nonzero()), total_count(loop.server.layout.sizes, density)
    assert held <= allowed, f"{what} holds {held} weights; density {density:g} allows {allowed}"


def _same(one: FederatedLoop, other: FederatedLoop, what: str) -> None:
    for name in ("weights", "mask", "union"):
        same = torch.equal(getattr(one.server, name), getattr(other.server, name))
        assert same, f"{what} ends with other {name} of the server than the first run"
    assert one.metrics.keys() == other.metrics.keys(), f"{what} has other metrics than the first run"
    ignored = ("seconds", "seconds_train")
    for name, value in one.metrics.items():
        again = other.metrics[name]
        assert name in ignored or value == again, f"{what}: {name} is {again:g}, it was {value:g}"
