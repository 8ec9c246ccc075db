"""From which checkpoint a run goes on, and whether it is the same experiment."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flash_pl.checkpoint import CheckpointFolder, read_checkpoint
from flash_pl.config.run_dir import RunDir
from flash_pl.errors import ConfigError
from flash_pl.ranks import restarts

# What a resumed run may change: how long, on what machine, what is watched and where things are. The rest is the
# experiment. `name` and `method` only say which fragments a config came from.
FREE = {"rounds", "run_dir", "ckpt_path", "method", "trainer"}
FREE_LEAVES = {"name", "root", "verify"}
# Settings of the trainer that are the experiment all the same.
FIXED = {"precision", "channels_last", "backend", "compile", "gradient_clip_val", "gradient_clip_algorithm", "lr_delay"}


def starting_point(ckpt_path: str | None, run: RunDir) -> dict[str, Any] | None:
    """The content of the checkpoint from which to go on, None for a fresh start.

    ``last`` is the newest whole checkpoint of the run's own directory; files that are not whole are passed over with a
    word on stderr, and without any file the run starts afresh. A process that torchrun has restarted looks there first.

    Raises:
        ConfigError: a file that is not whole, or ``last`` where none of the files is.
    """
    if ckpt_path == "last" or restarts():
        if (newest := CheckpointFolder(run.checkpoints).newest()) is not None:
            path, state, torn = newest
            for error in torn:
                print(f"flash-pl: warning: {error}", file=sys.stderr)
            print(f"flash-pl: going on from {path}, round {state['flash_pl']['round']}", file=sys.stderr)
            return state
        if ckpt_path == "last":
            print(f"flash-pl: no checkpoint in {run.checkpoints} yet, starting afresh", file=sys.stderr)
            return None
    return None if ckpt_path is None else read_checkpoint(ckpt_path)


def saved_config(state: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The resolved config in the content of the checkpoint at ``path``.

    Raises:
        ConfigError: a trainer without a config wrote it.
    """
    saved = state["flash_pl"]["extra"].get("config")
    if saved is None:
        raise ConfigError("ckpt_path", str(path), "a checkpoint that flash-pl fit wrote, with its config")
    return saved


def refuse_other(config: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check that a run can go on from a checkpoint.

    Raises:
        ConfigError: ``config`` is another experiment than the ``saved`` one; it names every key that differs.
    """
    ours, theirs = dict(experiment(config)), dict(experiment(saved))
    differing = [key for key in (ours | theirs) if ours.get(key) != theirs.get(key)]
    if differing:
        values = [ours.get(key) for key in differing]
        was = ", ".join(f"{key}={theirs.get(key)!r}" for key in differing)
        value = values[0] if len(values) == 1 else values
        raise ConfigError(", ".join(differing), value, f"as in the checkpoint: {was}")


def experiment(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The dotted keys and values that make the experiment."""
    fixed = {key: value for key, value in config["trainer"].items() if key in FIXED}
    yield from _leaves({key: value for key, value in config.items() if key not in FREE} | {"trainer": fixed})


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        if key not in FREE_LEAVES:
            yield from _leaves(value, f"{prefix}.{key}" if prefix else key)
