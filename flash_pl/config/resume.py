"""Whether a checkpoint belongs to the same experiment."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flash_pl.errors import ConfigError

# What a resumed run may change: how long, on what machine, what is watched and where things are. The rest is the
# experiment. `name` and `method` only say which fragments a config came from.
FREE = {"rounds", "run_dir", "ckpt_path", "method", "trainer"}
FREE_LEAVES = {"cost.verify"}
# Settings of the trainer that are the experiment all the same.
FIXED = {"precision", "channels_last", "backend", "compile", "gradient_clip_val", "gradient_clip_algorithm", "lr_delay"}


def saved_config(state: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The config in the content of the checkpoint at ``path``, to be composed.

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
    ours = str(config["data"].get("class_path")).startswith("flash_pl.")  # of another class we do not know
    free = FREE_LEAVES | ({"data.init_args.root"} if ours else set())
    for name, value in _leaves({key: value for key, value in config.items() if key not in FREE} | {"trainer": fixed}):
        if name not in free:
            yield name, value


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        if key != "name" or "class_path" not in node:
            yield from _leaves(value, f"{prefix}.{key}" if prefix else key)
