"""The checkpoint from which a run goes on."""

import sys
from pathlib import Path
from typing import Any

from flash_pl.checkpoint.archive import read_checkpoint
from flash_pl.checkpoint.folder import CheckpointFolder
from flash_pl.errors import ConfigError

LAST = "last"


def starting_point(ckpt_path: str | Path | None, folder: CheckpointFolder | None = None) -> dict[str, Any] | None:
    """The content of a checkpoint file.

    ``last`` is the newest usable one of the run's own ``folder``; torn files and those of another version are passed
    over with a word on stderr.

    Returns:
        None without a ``ckpt_path``, and where ``last`` finds no file.

    Raises:
        ConfigError: a file that cannot be used, ``last`` where none of the files can, or without a folder.
    """
    if ckpt_path != LAST:
        return None if ckpt_path is None else read_checkpoint(ckpt_path)
    if folder is None:
        raise ConfigError("ckpt_path", LAST, "a file, or last with a Checkpoint among the callbacks")
    newest = folder.newest()
    if newest is None:
        print(f"flash-pl: no checkpoint in {folder.path} yet", file=sys.stderr)
        return None
    path, state, refused = newest
    for error in refused:
        print(f"flash-pl: warning: {error}", file=sys.stderr)
    print(f"flash-pl: going on from {path}, round {state['flash_pl']['round']}", file=sys.stderr)
    return state
