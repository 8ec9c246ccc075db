"""The contract of a sparse scheduler, as one call."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flash_pl.callbacks import Callback
from flash_pl.costs import WireFormat
from flash_pl.errors import Interrupted
from flash_pl.loops import EvaluationSchedule, FederatedLoop
from flash_pl.schedulers import SparseScheduler
from flash_pl.sparsity import SparsityBudget, Tier
from flash_pl.testing.limits import CheckingTrainer, Limits
from flash_pl.testing.setting import ROUNDS, train
from flash_pl.testing.variants import (
    HiddenGradients,
    InterruptedTrainer,
    OneProcessPerClient,
    OtherGlobalDraws,
    PlannedInterruption,
    RecordedSteps,
    RoundsStartTwice,
)

TIERS = (0.5, 0.75, 1.0)  # densities of the tiers over the largest, as in FLASH
Make = Callable[[], SparseScheduler]


def check_scheduler(
    make: Make,
    density: float = 0.2,
    upload: float | None = None,
    server: float | None = None,
    accelerator: str = "cpu",
) -> None:
    """Train small federations with a scheduler and check the rules of ``SparseScheduler``.

    - Masks are bool, with one entry per maskable weight. Weights outside a client's mask are 0, also those with which a
      step computes. All weights are finite.
    - Clients send at most d n weights, and the server's mask has at least one and at most d n. With tiers, each tier
      keeps to its own density and the masks are nested. With ``density_of=flops`` the same holds for multiply-adds, up
      to a weight of each layer.
    - A client's hooks change neither the server nor the tiers' masks. They leave no hooks on the module, freeze nothing
      and leave every layer in its mode. The server's hooks do not change updates.
    - The same run gives the same bits: when it is repeated, whatever state the global random number generators are in;
      with one process, and so one scheduler, per client, in any order; with rounds that start twice, as after a
      failure; without gradients of pruned weights in steps that do not ask for them; with updates that were encoded and
      decoded; with steps that are recorded once and repeated without Python, as on a GPU (with ``accelerator="cpu"``);
      and when a new scheduler goes on from a checkpoint.

    The check takes a few seconds on one core. It does not see what a class, a module or a file remembers from client to
    client if that makes no difference to these runs.

    Args:
        make: returns a new scheduler with the same settings at each call, such as ``lambda: MyScheduler(rate=0.3)``.
        density: d, of 944 weights.
        upload: density that clients may send at most, if it is more than d (1 for dense training).
        server: density that the server's mask may have at most, if it is more than d.
        accelerator: where to train, as in ``FederatedTrainer``.

    Raises:
        AssertionError: a rule is broken; the message says which one.
        Interrupted: a signal asked to stop.

    >>> from flash_pl.schedulers import PDST
    >>> check_scheduler(PDST)
    """
    limits = Limits(density if upload is None else upload, density if server is None else server)
    run = partial(_Run, accelerator=accelerator)
    reference = run("a first run", make, density, limits, trainer_class=partial(CheckingTrainer, limits=limits))
    variants: dict[str, dict[str, Any]] = {
        "a second run, with other states of the global generators of random numbers": {
            "trainer_class": OtherGlobalDraws
        },
        "a run with a process for each client, in another order": {"trainer_class": OneProcessPerClient},
        "a run whose rounds start twice": {"trainer_class": RoundsStartTwice},
        "a run without gradients of pruned weights in steps that do not ask for them": {
            "trainer_class": HiddenGradients
        },
        "a run whose updates are sent as bytes": {"wire": WireFormat(verify=True)},
    }
    for name, settings in variants.items():
        reference.compare(run(name, make, density, **settings))
    if accelerator == "cpu":
        by_torch = run("a run without sparse kernels", make, density, backend="dense")
        name = "a run whose steps are recorded and repeated, as on a GPU"
        by_torch.compare(run(name, make, density, backend="dense", trainer_class=RecordedSteps))
    with tempfile.TemporaryDirectory() as folder:
        interrupted = partial(InterruptedTrainer, interrupt_in=ROUNDS - 1)
        with suppress(PlannedInterruption):
            run("a run that is interrupted", make, density, trainer_class=interrupted, checkpoint=Path(folder))
        name = "a run that goes on from a checkpoint"
        reference.compare(run(name, make, density, checkpoint=Path(folder), resume=True))

    budget = SparsityBudget([Tier(ratio * density, 1 / len(TIERS)) for ratio in TIERS])
    extra = limits.upload - density
    tiers = [ratio * density + extra if limits.upload < 1 else 1.0 for ratio in TIERS]
    limits = Limits(limits.upload, limits.server, tiers)
    checking = partial(CheckingTrainer, limits=limits)
    for density_of in ("weights", "flops"):
        name = f"a run with tiers of devices, whose densities are shares of the {density_of}"
        run(name, make, density, limits, trainer_class=checking, budget=budget, density_of=density_of)


class _Run(Callback):
    """A finished run and its rows.

    Raises:
        AssertionError: it ended early.
        Interrupted: a signal asked to stop.
    """

    def __init__(self, name: str, make: Make, density: float, *callbacks: Callback, **settings: Any) -> None:
        self.name = name
        self.rows: dict[int, dict[str, float]] = {}
        evaluate = EvaluationSchedule(eval_clients_every=1)
        try:
            self.loop = train(make(), density, callbacks=[self, *callbacks], evaluate=evaluate, **settings)
        except (AssertionError, Interrupted):
            raise
        except Exception as error:
            for broken in (
                *(callback.broken for callback in callbacks if isinstance(callback, Limits)),
                error.__cause__,
            ):
                if isinstance(broken, AssertionError):  # the rule behind the error that has ended the run
                    raise broken from error
            raise AssertionError(f"{name} ends with {type(error).__name__}: {error}") from error

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        """A round's metrics."""
        self.rows[loop.round] = row

    def compare(self, other: "_Run") -> None:
        """Check that ``other`` has the same rows, as far as it has any, and the same server.

        Raises:
            AssertionError: it differs.
        """
        for round, row in other.rows.items():
            ours = self.rows[round]
            assert ours.keys() == row.keys(), f"{other.name} has other metrics than {self.name}"
            for column in ours.keys() - {"seconds", "seconds_train"}:
                both_nan = ours[column] != ours[column] and row[column] != row[column]
                same = both_nan or ours[column] == row[column]
                values = f"is {row[column]!r}, in {self.name} {ours[column]!r}"
                assert same, f"{other.name}: {column} of round {round} {values}"
        for part in ("weights", "mask", "union"):
            same = torch.equal(getattr(self.loop.server, part), getattr(other.loop.server, part))
            assert same, f"{other.name} ends with other {part} of the server than {self.name}"
