"""Checkpoints of a run: atomic, loadable without running code, readable by Lightning."""

import os
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import torch

from flash_pl.errors import ConfigError
from flash_pl.loops import FederatedLoop

SCHEMA = 1


class Checkpoint:
    """Writes ``directory/last.ckpt`` after every ``every``-th round and at the end of the run.

    ``state_dict`` and ``hyper_parameters`` make it a Lightning checkpoint, which ``load_from_checkpoint`` opens; the
    run's own state is under ``flash_pl``.

    Args:
        directory: where to write; created.
        every: rounds between two checkpoints; 0 writes at the end only.
        extra: plain values to keep with the run's state, such as its configuration.
    """

    def __init__(self, directory: str | Path, every: int = 10, extra: dict[str, Any] | None = None) -> None:
        self.path, self.every, self.extra = Path(directory) / "last.ckpt", every, extra or {}

    def on_run_start(self, loop: FederatedLoop) -> None:
        self._saved = -1

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        if self.every and loop.round % self.every == 0:
            self.save(loop)

    def on_run_end(self, loop: FederatedLoop) -> None:
        if self._saved != loop.round:
            self.save(loop)

    def save(self, loop: FederatedLoop) -> None:
        """Write the checkpoint beside the last one, then take its place."""
        module = loop.client.module
        loop.client.arena.copy_(loop.server.masked())  # the next client receives its weights anyway
        state = {
            "state_dict": {name: value.cpu().clone() for name, value in module.state_dict().items()},
            "hyper_parameters": dict(module.hparams),
            "pytorch-lightning_version": L.__version__,
            "epoch": loop.round,
            "global_step": loop.round,
            "loops": None,
            "callbacks": {},
            "flash_pl": loop.state_dict() | {"schema": SCHEMA, "extra": self.extra},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        self._saved = loop.round


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; a hostile file runs no code.

    Raises:
        ConfigError: no such file, a torn or foreign file, or a schema of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("ckpt_path", str(path), "an existing checkpoint file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise ConfigError("ckpt_path", str(path), "a whole checkpoint of flash_pl") from error
    if not isinstance(state, dict) or state.get("flash_pl", {}).get("schema") != SCHEMA:
        raise ConfigError("ckpt_path", str(path), f"a checkpoint of flash_pl with schema {SCHEMA}")
    return state
