"""The callback that saves a run: when it saves, and what it writes."""

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities import rank_zero_only, rank_zero_warn

from flash_pl.archive import load_archive
from flash_pl.callbacks.base import Callback
from flash_pl.checkpoint import SCHEMA, CheckpointFolder
from flash_pl.checks import check_choice
from flash_pl.errors import CallbackError, ClientError, ConfigError, Interrupted, as_yaml
from flash_pl.loops import FederatedLoop, call_hooks, save_state, stateful_parts
from flash_pl.machine import machine_facts

READABLE = "a checkpoint holds only tensors and plain values (numbers, text, lists, dictionaries)"


class Checkpoint(Callback):
    """Saves the run after its first mask, after every ``every``-th round, at its end and when a signal stops it; also
    the best round so far, as ``best.ckpt``. ``CheckpointFolder`` says which files there are.

    Each file is a Lightning checkpoint: ``MyModule.load_from_checkpoint(path)`` opens it and gets the server's weights,
    masked. The state from which a run is resumed is under the key ``flash_pl``. Other callbacks add what they must
    remember in ``on_save_checkpoint``.

    Args:
        directory: where to write; it is created.
        every: rounds between two checkpoints; 0 saves only the best round and the end of the run.
        extra: plain values to save too, such as the config.
        monitor: the metric that decides which round is the best.
        mode: "max" if the highest value of ``monitor`` is the best, "min" if the lowest is.

    Attributes:
        best: the best value of ``monitor`` so far, None before its first value.

    A run of two rounds that is resumed and continued to four:

    >>> import tempfile
    >>> from torch import nn
    >>> from flash_pl import PDST, Classifier, FederatedTrainer
    >>> from flash_pl.callbacks import Checkpoint
    >>> from flash_pl.data import Synthetic
    >>> folder = tempfile.mkdtemp()
    >>> for rounds in (2, 4):
    ...     trainer = FederatedTrainer(
    ...         PDST(), rounds=rounds, cohort=2, callbacks=[Checkpoint(folder, every=1)], accelerator="cpu"
    ...     )
    ...     module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), classes=10)
    ...     loop = trainer.fit(module, Synthetic(samples=200, clients=4), ckpt_path="last")
    >>> loop.round, sorted(path.name for path in trainer.folder.files())
    (4, ['best.ckpt', 'last.ckpt', 'previous.ckpt'])
    """

    def __init__(
        self,
        directory: str | Path,
        every: int = 10,
        extra: dict[str, Any] | None = None,
        monitor: str = "val_acc",
        mode: str = "max",
    ) -> None:
        check_choice("max", "min", mode=mode)
        self.folder, self.every, self.extra = CheckpointFolder(directory), every, extra or {}
        self.monitor, self.sign = monitor, 1 if mode == "max" else -1
        self.best: float | None = None
        self._resumed = self._started = False

    def on_run_start(self, loop: FederatedLoop) -> None:
        self._saved_round, self._warned, self._started = -1, False, True
        if not self._resumed:
            self.best = None
            self._set_aside()
        self._resumed = False

    @rank_zero_only
    def _set_aside(self) -> None:
        """Rename the checkpoints of an earlier run, so that they are not taken for checkpoints of this one."""
        if pattern := self.folder.set_aside():
            rank_zero_warn(f"this run starts anew in the folder of an earlier run, whose checkpoints are now {pattern}")

    def on_first_mask(self, loop: FederatedLoop) -> None:
        if self.every:
            self.save(loop)

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        server_metrics = [name for name in loop.evaluated if name in loop.evaluator.loop.names]
        if server_metrics and self.monitor not in row and not self._warned:
            self._warned = True
            rank_zero_warn(f"no best.ckpt: monitor={self.monitor} is not one of {', '.join(server_metrics)}")
        value = row.get(self.monitor, math.nan)
        best = not math.isnan(value) and (self.best is None or self.sign * value > self.sign * self.best)
        if best:
            self.best = value
        if best or (self.every and loop.round % self.every == 0):
            self.save(loop, best)

    def on_run_end(self, loop: FederatedLoop) -> None:
        if self._saved_round != loop.round:
            self.save(loop)

    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        # These errors leave a usable server. After any other error the server may be wrong, and saving may fail in the
        # same way again.
        started, self._started = self._started, False
        if started and isinstance(error, Interrupted | ClientError | CallbackError) and loop.consistent:
            if self._saved_round != loop.round or loop.evaluation_pending:
                self.save(loop)

    def on_save_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        state["flash_pl"] |= {"best": self.best, "best_of": [self.monitor, self.sign]}

    def on_load_checkpoint(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        self._resumed, saved = True, state["flash_pl"]
        same_metric = saved.get("best_of") == [self.monitor, self.sign]
        self.best = saved["best"] if same_metric else None

    def bytes_needed(self, loop: FederatedLoop) -> int:
        """About how many bytes of disk the checkpoints of a run need.

        There are at most four files: last, previous, best, and one that is being written. Each holds the server's
        weights, the union, the round average and the server optimizer's two moments if the run has them, the module's
        own copy of the weights, and the mask. The masks that clients keep are not counted.
        """
        arenas = 3 + (loop.round_average is not None) + 2 * (loop.server_optimizer is not None)
        return 4 * (arenas * loop.client.arena.nbytes + loop.client.mask.nbytes)

    @rank_zero_only
    def save(self, loop: FederatedLoop, best: bool = False) -> None:
        """Write ``last.ckpt``, and ``best.ckpt`` if this is the best round so far.

        Raises:
            RunError: a file cannot be written.
            ConfigError: the state of a component or a callback has a value that could not be read back.
        """
        module = loop.client.module
        if self._saved_round < 0:
            for name, component in stateful_parts(loop).items():
                state = component.state_dict()
                if not isinstance(state, dict):
                    problem = f"the state_dict() of {type(component).__name__} is {as_yaml(state)}"
                    raise ConfigError(name, problem, "return a dictionary")
                if not _can_be_read_back(state):
                    problem = f"the state_dict() of {type(component).__name__} cannot be read back"
                    raise ConfigError(name, problem, READABLE)
        loop.client.reset()
        loop.client.arena.copy_(loop.server.masked())  # free to overwrite: the next client receives its weights anyway
        state = {
            "state_dict": {name: _copied(value) for name, value in module.state_dict().items()},
            "hyper_parameters": _readable_hyperparameters(module.hparams),
            "pytorch-lightning_version": L.__version__,
            "epoch": loop.round,
            "global_step": loop.round,
            "loops": None,
            "callbacks": {},
            "flash_pl": save_state(loop)
            | {"schema": SCHEMA, "machine": machine_facts(loop.fabric.device), "extra": self.extra},
        }
        if hasattr(module, "_hparams_name"):
            state[module.CHECKPOINT_HYPER_PARAMS_NAME] = module._hparams_name
        module.on_save_checkpoint(state)
        call_hooks(loop.fabric, "on_save_checkpoint", loop=loop, state=state)
        for key, value in _unreadable(state):
            problem = f"a value of class {type(value).__name__} cannot be read back"
            raise ConfigError(f"checkpoint.{key}", problem, READABLE)
        self.folder.save(state, best)
        self._saved_round = loop.round


def _copied(value: Any) -> Any:
    """Copy a tensor to the CPU; a module's ``get_extra_state`` may return anything else, which stays as it is."""
    return value.cpu().clone() if isinstance(value, torch.Tensor) else value


def _readable_hyperparameters(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that can be read back; warn about the others."""
    readable = {}
    for name, value in hparams.items():
        value = value.item() if isinstance(value, np.generic) else value
        if _can_be_read_back(value):
            readable[name] = value
        else:
            rank_zero_warn(f"checkpoints do not hold the hyperparameter {name}, a {type(value).__name__}")
    return readable


def _unreadable(state: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in a nested state that could not be read back, with their dotted keys."""
    if isinstance(state, dict):
        for name, value in state.items():
            yield from _unreadable(value, f"{key}.{name}" if key else str(name))
    elif not _is_dense_tensor(state) and not _can_be_read_back(state):  # dense tensors need no trial
        yield key, state


def _is_dense_tensor(value: Any) -> bool:
    return type(value) is torch.Tensor and value.layout == torch.strided and not value.is_quantized


def _can_be_read_back(value: Any) -> bool:
    """Whether ``load_archive``, which runs no code from the file, restores ``value``."""
    try:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        load_archive(buffer)
    except Exception:  # pickling runs code of the value's class, which may raise anything
        return False
    return True
