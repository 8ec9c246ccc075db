"""The contract of a method of sparse training."""

import pickle
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flash_pl.costs import WireFormat
from flash_pl.errors import Interrupted
from flash_pl.loops import EvaluationSchedule, FederatedLoop
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import seed_global_rng_
from flash_pl.sparsity import SparsityBudget, Tier
from flash_pl.testing.limits import Limits
from flash_pl.testing.setting import ROUNDS, train


def spread(loop: FederatedLoop) -> None:
    """As if each client had a process of its own: it is trained by a copy of the scheduler that is then thrown away,
    the clients of a round come the other way round, and what they report is written and read."""
    loop.ranks.my_share = lambda costs: list(range(len(costs)))[::-1]  # type: ignore[method-assign]
    loop.ranks.gather = lambda item: [pickle.loads(pickle.dumps(item))]  # type: ignore[method-assign]
    for part, name in ((loop.training, "_train"), (loop.evaluation, "offer")):
        setattr(part, name, _by_a_copy(part, getattr(part, name)))


def _by_a_copy(part: Any, method: Any) -> Any:
    def call(*arguments: Any) -> Any:
        shared = part.parts
        part.parts = replace(shared, scheduler=deepcopy(shared.scheduler))
        try:
            return method(*arguments)
        finally:
            part.parts = shared

    return call


def scatter(loop: FederatedLoop) -> None:
    """The global generators of random numbers, from which nothing should be drawn, are in other states."""
    for part, name in (
        (loop, "find_first_mask"),
        (loop, "nest"),
        (loop.training, "_attempt"),
        (loop.ranks, "sum_"),  # before on_aggregate
    ):
        setattr(part, name, _after_seeding(getattr(part, name), loop.fabric.device))


def _after_seeding(method: Any, device: torch.device) -> Any:
    def call(*arguments: Any) -> Any:
        seed_global_rng_(11, device)
        return method(*arguments)

    return call


def start_twice(loop: FederatedLoop) -> None:
    """As if every round had failed once: it starts again."""
    attempt = loop.training._attempt

    def again(cohort: Any, masks: Any, round: int) -> Any:
        loop.scheduler.on_round_start(loop.server, masks, round)
        return attempt(cohort, masks, round)

    loop.training._attempt = again  # type: ignore[method-assign]


def hide_gradients(loop: FederatedLoop) -> None:
    """As sparse kernels do: pruned weights have no gradients in steps that do not ask for them."""
    client = loop.client
    masked = client.mask_gradients_

    def masked_twice() -> None:
        if not client.backend.dense:
            kept = client.mask.to(client.weights.dtype)
            client.scale_gradients_(kept)
        masked()

    client.mask_gradients_ = masked_twice  # type: ignore[method-assign]


def interrupt(loop: FederatedLoop, rounds: int) -> None:
    """A signal comes while round ``rounds`` is evaluated."""
    evaluate = loop.evaluation.run

    def interrupted(masks: Any, done: int) -> Any:
        if done == rounds:
            raise Interrupted(15)
        return evaluate(masks, done)

    loop.evaluation.run = interrupted  # type: ignore[method-assign]


TIERS = (0.4, 0.7, 1.0)  # densities of the tiers over the largest
Make = Callable[[], SparseScheduler]


def check_scheduler(
    make: Make,
    density: float = 0.2,
    upload: float | None = None,
    server: float | None = None,
    accelerator: str = "cpu",
) -> None:
    """Train small federations with a method, and check the rules of ``SparseScheduler``.

    - Masks are bool, one for every maskable weight; weights outside a client's mask are 0, also those with which a step
      computes, and all are finite.
    - Clients send at most d n weights, the server's mask holds at most d n; with tiers of devices each keeps to its
      own, and their masks are nested.
    - A client's hooks change neither the server nor the masks that it offers, and leave no hooks on the module, nothing
      frozen, no layer in another mode. The server's hooks do not change ballots.
    - The same run gives the same bits: again, whatever state the global generators of random numbers are in; with a
      process, and so a scheduler, for every client, whoever comes first; with rounds that start twice, as after a
      failure; without gradients of pruned weights in steps that do not ask for them; with reports that were written to
      bytes and read; going on from a checkpoint with a new scheduler.

    It takes a few seconds on one core. What a class, a module or a file remembers from client to client is not seen
    where it makes no difference to these runs.

    Args:
        make: a new scheduler with the same settings at each call, such as ``lambda: MyMethod(rate=0.3)``.
        density: d, of 944 weights.
        upload: what clients may send at most, if it is more than d (1 for dense methods).
        server: what the server's mask may hold at most, if it is more than d.
        accelerator: where to train, as in ``FederatedTrainer``.

    Raises:
        AssertionError: a rule is broken; it says which one.

    >>> from flash_pl.schedulers import PDST
    >>> check_scheduler(PDST)
    """
    limits = Limits(density if upload is None else upload, density if server is None else server)
    run = partial(_Run, accelerator=accelerator)
    whole = run("a first run", make, density, limits, change=limits.watch)
    changes: dict[str, dict[str, Any]] = {
        "a second run, with other states of the global generators of random numbers": {"change": scatter},
        "a run with a process for each client, in another order": {"change": spread},
        "a run whose rounds start twice": {"change": start_twice},
        "a run that hides gradients of pruned weights from who does not ask for them": {"change": hide_gradients},
        "a run whose reports are sent as bytes": {"wire": WireFormat(verify=True)},
    }
    for what, settings in changes.items():
        whole.compare(run(what, make, density, **settings))
    with tempfile.TemporaryDirectory() as folder:
        stop = partial(interrupt, rounds=ROUNDS - 1)
        run("a run that is interrupted", make, density, change=stop, checkpoint=Path(folder))
        whole.compare(run("a run that goes on from a checkpoint", make, density, checkpoint=Path(folder), resume=True))

    budget = SparsityBudget([Tier(ratio * density, 1 / len(TIERS)) for ratio in TIERS])
    beyond = limits.upload - density
    of_tiers = [ratio * density + beyond if limits.upload < 1 else 1.0 for ratio in TIERS]
    limits = Limits(limits.upload, limits.server, of_tiers)
    run("a run with tiers of devices", make, density, limits, change=limits.watch, budget=budget)


class _Run:
    """A finished run and its rows.

    Raises:
        AssertionError: it has not come to its end.
    """

    def __init__(self, what: str, make: Make, density: float, *callbacks: Any, **settings: Any) -> None:
        self.what, self.rows = what, {}  # type: str, dict[int, dict[str, float]]
        evaluate = EvaluationSchedule(eval_clients_every=1)
        try:
            self.loop = train(make(), density, callbacks=[self, *callbacks], evaluate=evaluate, **settings)
        except Interrupted:
            pass
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{what} ends with {type(error).__name__}: {error}") from error

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        """A round's metrics."""
        self.rows[loop.round] = row

    def compare(self, other: "_Run") -> None:
        """Check that ``other``, or as much as it has of it, is the same.

        Raises:
            AssertionError: it differs.
        """
        ignored = ("seconds", "seconds_train")
        for round, row in other.rows.items():
            mine = self.rows[round]
            assert mine.keys() == row.keys(), f"{other.what} has other metrics than {self.what}"
            for name in mine:
                both_nan = mine[name] != mine[name] and row[name] != row[name]
                same = name in ignored or both_nan or mine[name] == row[name]
                assert same, f"{other.what}: {name} of round {round} is {row[name]!r}, in {self.what} {mine[name]!r}"
        for name in ("weights", "mask", "union"):
            same = torch.equal(getattr(self.loop.server, name), getattr(other.loop.server, name))
            assert same, f"{other.what} ends with other {name} of the server than {self.what}"
