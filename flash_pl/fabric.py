"""Lightning's Fabric as a run has it: devices, precision, processes."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger

from flash_pl.checks import check_flags, check_integers, check_numbers
from flash_pl.errors import ConfigError
from flash_pl.ranks import ProcessStrategy, processes_here

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


def make_fabric(
    accelerator: str,
    devices: Any,
    num_nodes: int,
    precision: str,
    deterministic: bool,
    timeout: float,
    callbacks: Sequence[Any],
    loggers: Sequence[Logger],
) -> Fabric:
    """Fabric for one process, or for one of several; the arguments are those of ``FederatedTrainer``.

    Raises:
        ConfigError: by the argument, what is not allowed.
    """
    check_integers(num_nodes=num_nodes)
    check_flags(deterministic=deterministic)
    check_numbers(timeout=timeout)
    if not timeout > 0:
        raise ConfigError("timeout", timeout, "a number of seconds above 0")
    if precision not in PRECISIONS:
        raise ConfigError("precision", precision, f"one of {', '.join(PRECISIONS)}")
    devices = processes_here() or devices
    several = processes_here() is not None or devices != 1 or num_nodes != 1
    fabric = Fabric(
        accelerator=accelerator,
        strategy=ProcessStrategy(timeout) if several else "auto",
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,  # type: ignore[arg-type]
        callbacks=list(callbacks),
        loggers=list(loggers),
    )
    if deterministic and fabric.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return fabric
