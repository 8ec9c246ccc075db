"""What a checkpoint says about the run that wrote it."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from flash_pl.callbacks import read_checkpoint
from flash_pl.errors import ConfigError

# Server, masks and partition are made for these; all else may change from one checkpoint to the next.
FIXED = ("seed", "density", "clients", "data.class_path", "model.class_path", "model.init_args", "scheduler.class_path")


def saved_config(checkpoint: str) -> dict[str, Any]:
    """The resolved config in a checkpoint.

    Raises:
        ConfigError: the file cannot be read, or a trainer without a config wrote it.
    """
    saved = read_checkpoint(checkpoint)["flash_pl"]["extra"].get("config")
    if saved is None:
        raise ConfigError("ckpt_path", checkpoint, "a checkpoint that flash-pl fit wrote, with its config")
    return saved


def refuse_other(config: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check that a run can go on from a checkpoint.

    Raises:
        ConfigError: ``config`` is another experiment than the ``saved`` one.
    """
    ours, theirs = OmegaConf.create(dict(config)), OmegaConf.create(dict(saved))
    for key in FIXED:
        if OmegaConf.select(ours, key) != OmegaConf.select(theirs, key):
            raise ConfigError(
                key, OmegaConf.select(ours, key), f"{OmegaConf.select(theirs, key)}, as in the checkpoint"
            )
