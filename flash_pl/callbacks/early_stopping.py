"""The callback that ends a run once a metric no longer improves."""

import math
from typing import Any

from lightning.fabric.utilities import rank_zero_info, rank_zero_warn

from flash_pl.callbacks.base import Callback
from flash_pl.checks import check_choice, check_integers, check_numbers
from flash_pl.errors import ConfigError
from flash_pl.loops import FederatedLoop


class EarlyStopping(Callback):
    """Ends the run if ``monitor`` has not improved in ``patience`` evaluations in a row.

    Rounds without this metric do not count. NaN is no improvement. A resumed run stops in the same round as a run that
    nothing has interrupted. A run that has stopped goes on if it is resumed with more patience, or without this
    callback. An evaluation of all clients that is due only in the last round (``eval_clients_every=0``) is left out if
    the run stops before.

    Args:
        monitor: a column of metrics.csv.
        mode: "max" if high values are good, "min" if low values are.
        patience: number of evaluations.
        min_delta: a smaller improvement does not count.

    Attributes:
        best: the best value so far, None before the first.
        waited: evaluations since then.

    >>> from torch import nn
    >>> from flash_pl import PDST, Classifier, FederatedTrainer
    >>> from flash_pl.callbacks import EarlyStopping
    >>> from flash_pl.data import Synthetic
    >>> stopping = EarlyStopping("density", patience=2)  # a metric that is the same in every round
    >>> trainer = FederatedTrainer(PDST(), rounds=50, cohort=2, callbacks=[stopping], accelerator="cpu")
    >>> module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), classes=10)
    >>> loop = trainer.fit(module, Synthetic(samples=200, clients=4))
    >>> loop.round, loop.stop_reason
    (3, 'density has not been better than 0.05 in 2 evaluations')

    Raises:
        ConfigError: an argument is not allowed; in the first round that evaluates everything, ``monitor`` is not a
            metric of the run.
    """

    def __init__(self, monitor: str = "val_acc", mode: str = "max", patience: int = 10, min_delta: float = 0.0) -> None:
        check_choice("max", "min", mode=mode)
        check_integers(patience=patience)
        check_numbers("[0, inf)", min_delta=min_delta)
        self.monitor, self.sign, self.patience, self.min_delta = (
            monitor,
            1 if mode == "max" else -1,
            patience,
            min_delta,
        )
        self.best: float | None = None
        self.waited = 0
        self._resumed = False

    def on_load_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        saved = state.get("early_stopping", {})
        self._resumed = saved.get("of") == [self.monitor, self.sign]
        if self._resumed:
            self.best, self.waited = saved["best"], saved["waited"]

    def on_save_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        state["early_stopping"] = {"of": [self.monitor, self.sign], "best": self.best, "waited": self.waited}
        if self._is_over:  # on_run_start stops the run again, if there still is no patience left
            state["flash_pl"]["stopped"] = False

    def on_run_start(self, loop: FederatedLoop) -> None:
        if not self._resumed:
            self.best, self.waited = None, 0
        self._resumed = False
        self._stop_if_over(loop)

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        if self.monitor not in row:
            self._check_name(loop, row)
            return
        value = loop.ranks.broadcast(lambda: float(row[self.monitor]))  # seconds differ from rank to rank
        if self._improves(value):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        self._stop_if_over(loop)

    def on_run_end(self, loop: FederatedLoop) -> None:
        if self.best is None and not self.waited:
            rank_zero_warn(f"EarlyStopping had nothing to do: no round of this run has {self.monitor}")

    @property
    def _is_over(self) -> bool:
        return self.waited >= self.patience

    def _improves(self, value: float) -> bool:
        if math.isnan(value):
            return False
        return self.best is None or self.sign * value > self.sign * self.best + self.min_delta

    def _stop_if_over(self, loop: FederatedLoop) -> None:
        if self._is_over:
            best = "NaN" if self.best is None else f"{self.best:.4g}"
            loop.stop_reason = f"{self.monitor} has not been better than {best} in {self.waited} evaluations"
            loop.should_stop = True
            rank_zero_info(f"the run ends after round {loop.round} of {loop.plan.rounds}: {loop.stop_reason}")

    def _check_name(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        """Check, after a round with every kind of evaluation that the run has, whether the metric can still come."""
        schedule, rounds = loop.evaluator.schedule, loop.plan.rounds
        clients_due = schedule.eval_clients_every is None or schedule.clients_due(loop.round, rounds)
        if self.best is None and schedule.server_due(loop.round, rounds) and clients_due:
            names = ", ".join(name for name in row if name != "round")
            raise ConfigError("monitor", f"'{self.monitor}' is not a metric of this run", f"choose one of {names}")
