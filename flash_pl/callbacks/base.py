"""The base class of callbacks: the hooks of a run, in the order in which they fire."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from flash_pl.loops import Failure, FederatedLoop
from flash_pl.server import ClientUpdate


class Callback:
    """Watches a run. All hooks are empty here; a callback overrides the ones that it needs.

    Every hook gets the running ``FederatedLoop``. A callback may read everything in it, such as ``loop.server.mask``,
    ``loop.round`` and ``loop.plan.rounds``. It must not change the model. What it may set, in ``on_round_end``, is
    ``loop.should_stop = True``, which ends the run after this round, and ``loop.stop_reason``, which says why.

    If a run has several processes (ranks), each has its own copy of every callback. All ranks call all hooks, with
    these exceptions:

    - ``on_first_stage_client_end`` and ``on_client_end`` are called on the rank that trained the client;
    - ``on_save_checkpoint`` is called on rank 0, which writes the file.

    ``loop.should_stop`` must be set on all ranks or on none. Files and the screen are for rank 0 alone: decorate such a
    hook with ``lightning.fabric.utilities.rank_zero_only``.

    A callback that ends the run at a given accuracy (``EarlyStopping`` ends it once a metric no longer improves):

    >>> from torch import nn
    >>> from flash_pl import PDST, Classifier, FederatedTrainer
    >>> from flash_pl.callbacks import Callback
    >>> from flash_pl.data import Synthetic
    >>> class StopAt(Callback):
    ...     def __init__(self, accuracy):
    ...         self.accuracy = accuracy
    ...
    ...     def on_round_end(self, loop, row):
    ...         if row.get("val_acc", 0.0) >= self.accuracy:  # rounds without an evaluation have no val_acc
    ...             loop.should_stop = True
    >>> trainer = FederatedTrainer(PDST(), rounds=50, cohort=2, callbacks=[StopAt(0.5)], accelerator="cpu")
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    >>> loop = trainer.fit(Classifier(network, classes=10), Synthetic(samples=200, clients=4))
    >>> loop.round < 50 and loop.metrics["val_acc"] >= 0.5
    True
    """

    def __init_subclass__(cls) -> None:
        """Refuse methods whose names start with ``on_`` but are not hooks: they would never be called.

        Raises:
            TypeError: the class has such a method.
        """
        super().__init_subclass__()
        hooks = [name for name in vars(Callback) if name.startswith("on_")]
        for name in vars(cls):
            if name.startswith("on_") and name not in hooks:
                close = get_close_matches(name, hooks, 1)
                hint = f"did you mean {close[0]}?" if close else f"the hooks are {', '.join(hooks)}"
                raise TypeError(f"{cls.__name__}.{name} is not a hook of a callback; {hint}")

    # The start of a run

    def on_run_start(self, loop: FederatedLoop) -> None:
        """Called before anything is trained, also in a resumed run; ``loop.round`` is the number of rounds done."""

    def on_first_stage_client_end(self, loop: FederatedLoop, done: int, total: int) -> None:
        """Called after each client of stage 1, if the scheduler has a first stage. ``done`` of its ``total`` clients
        have trained, as far as this rank knows."""

    def on_first_mask(self, loop: FederatedLoop) -> None:
        """Called once the server has its first mask; a resumed run that already has a mask does not call it."""

    # Every round

    def on_client_end(self, loop: FederatedLoop, update: ClientUpdate) -> None:
        """Called after each client whose update is in time. ``loop.client`` still has the client's weights; the next
        client overwrites them, so copy what you keep."""

    def on_client_error(self, loop: FederatedLoop, failure: Failure) -> None:
        """Called for each client that failed and is left out (with ``on_client_error="skip"``)."""

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        """Called after each round and its evaluation. ``row`` is the round's row of metrics.csv; ``loop.round`` counts
        this round already."""

    # The end of a run

    def on_run_end(self, loop: FederatedLoop) -> None:
        """Called after the last round."""

    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        """Called in place of ``on_run_end`` if an error, a signal (``Interrupted``) or Ctrl-C ends the run."""

    # Checkpoints

    def on_save_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        """Called before a checkpoint is written: add to ``state`` what this callback must remember, as tensors and
        plain values under a key of its own."""

    def on_load_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        """Called before ``on_run_start`` of a resumed run: take back what ``on_save_checkpoint`` added to ``state``."""
