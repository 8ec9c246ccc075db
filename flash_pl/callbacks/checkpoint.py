"""When a run is saved."""

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities import rank_zero_only, rank_zero_warn

from flash_pl.checkpoint import SCHEMA, CheckpointFolder, Stateful
from flash_pl.errors import ClientError, ConfigError, Interrupted
from flash_pl.loops import FederatedLoop

READABLE = "tensors and plain values, all that a checkpoint can hold"


class Checkpoint:
    """Saves the run after its first mask, after every ``every``-th round, at its end and when it is interrupted, and
    the best round so far as ``best.ckpt``, see ``CheckpointFolder``.

    ``state_dict`` and ``hyper_parameters`` make it a Lightning checkpoint, which ``load_from_checkpoint`` opens; the
    run's own state is under ``flash_pl``. A callback adds what it must remember in ``on_save_checkpoint(loop, state)``
    and takes it back in ``on_load_checkpoint(loop, state)``.

    Args:
        directory: where to write; created.
        every: rounds between two checkpoints; 0 writes the best and the last only.
        extra: plain values to keep with the run's state, such as its configuration.
        monitor, mode: the metric whose highest ("max") or lowest ("min") value is the best.
    """

    def __init__(
        self,
        directory: str | Path,
        every: int = 10,
        extra: dict[str, Any] | None = None,
        monitor: str = "val_acc",
        mode: str = "max",
    ) -> None:
        if mode not in ("max", "min"):
            raise ConfigError("mode", mode, "max or min")
        self.folder, self.every, self.extra = CheckpointFolder(directory), every, extra or {}
        self.monitor, self.sign = monitor, 1 if mode == "max" else -1
        self.best: float | None = None
        self._resumed = False

    def on_run_start(self, loop: FederatedLoop) -> None:
        self._saved, self._warned = -1, False
        if not self._resumed:
            self.best = None
            self._set_aside()
        self._resumed = False

    def on_first_mask(self, loop: FederatedLoop) -> None:
        if self.every:
            self.save(loop)

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        logged = [name for name in loop.evaluated if f"{name}_union" in loop.evaluated]
        if logged and self.monitor not in row and not self._warned:
            self._warned = True
            rank_zero_warn(f"no best.ckpt: monitor={self.monitor} is not among the metrics: {', '.join(logged)}")
        value = row.get(self.monitor, math.nan)  # a NaN is no best
        best = not math.isnan(value) and (self.best is None or self.sign * value > self.sign * self.best)
        if best:
            self.best = value
        if best or (self.every and loop.round % self.every == 0):
            self.save(loop, best)

    def on_run_end(self, loop: FederatedLoop) -> None:
        if self._saved != loop.round:
            self.save(loop)

    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        # What else may go wrong may go wrong again; these two are expected, and the same on all ranks.
        if isinstance(error, Interrupted | ClientError) and loop.whole:
            if self._saved != loop.round or loop.pending:
                self.save(loop)

    def on_save_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        state["flash_pl"] |= {"best": self.best, "best_of": [self.monitor, self.sign]}

    def on_load_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        self._resumed, saved = True, state["flash_pl"]
        same = saved.get("best_of") == [self.monitor, self.sign]  # of another metric it says nothing
        self.best = saved["best"] if same else None

    def room(self, loop: FederatedLoop) -> int:
        """About how many bytes of disk the run's checkpoints will take: the last two, the best, and one being written.

        Each holds the weights, the union, an average and two moments if there are, the model's own weights and the
        mask; masks of single clients come on top.
        """
        arenas = 3 + (loop.parts.round_average is not None) + 2 * (loop.parts.server_optimizer is not None)
        return 4 * (arenas * loop.client.arena.nbytes + loop.client.mask.nbytes)

    @rank_zero_only
    def save(self, loop: FederatedLoop, best: bool = False) -> None:
        """Write the checkpoint.

        Raises:
            RunError: it cannot be written.
            ConfigError: it could not be read again: a part of the run has a state of other than plain values.
        """
        module = loop.client.module
        if self._saved < 0:
            _refuse_unreadable(loop.parts.stateful())
        loop.client.reset()
        loop.client.arena.copy_(loop.server.masked())  # the next client receives its weights anyway
        state = {
            "state_dict": {name: _copied(value) for name, value in module.state_dict().items()},
            "hyper_parameters": _plain(module.hparams),
            "pytorch-lightning_version": L.__version__,
            "epoch": loop.round,
            "global_step": loop.round,
            "loops": None,
            "callbacks": {},
            "flash_pl": loop.state_dict() | {"schema": SCHEMA, "extra": self.extra},
        }
        if hasattr(module, "_hparams_name"):
            state[module.CHECKPOINT_HYPER_PARAMS_NAME] = module._hparams_name
        module.on_save_checkpoint(state)
        loop.fabric.call("on_save_checkpoint", loop=loop, state=state)
        for name, value in _unreadable(state):
            raise ConfigError(f"checkpoint: {name}", type(value).__name__, READABLE)
        self.folder.save(state, best)
        self._saved = loop.round

    @rank_zero_only
    def _set_aside(self) -> None:
        """Checkpoints of another run must not be taken for those of the one that starts here."""
        if older := self.folder.set_aside():
            rank_zero_warn(f"a run starts afresh where another has been; its checkpoints are now {older}")


def _refuse_unreadable(parts: Mapping[str, Stateful]) -> None:
    for name, part in parts.items():
        if not _reads_back(part.state_dict()):
            raise ConfigError(name, type(part).__name__, f"a state_dict() of {READABLE}")


def _unreadable(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What could not be read again, with its place; tensors of torch's own kinds always can."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from _unreadable(value, f"{name}.{key}" if name else str(key))
    elif type(state) is not torch.Tensor and not _reads_back(state):
        yield name, state


def _copied(value: Any) -> Any:
    """Out of a state_dict, where a module's own ``get_extra_state`` may be anything."""
    return value.cpu().clone() if isinstance(value, torch.Tensor) else value


def _reads_back(value: Any) -> bool:
    """Whether ``torch.load`` makes it again without running code."""
    try:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except Exception:  # whatever a class of the user's does when it is pickled
        return False
    return True


def _plain(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters that can be read again without running code; the others are left out."""
    kept = {}
    for name, value in hparams.items():
        value = value.item() if isinstance(value, np.generic) else value
        if _reads_back(value):
            kept[name] = value
        else:
            rank_zero_warn(f"checkpoints do not hold the hyperparameter {name}, a {type(value).__name__}")
    return kept
