"""What a federated loop calls of its callbacks."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from lightning.pytorch.callbacks import Callback

from flash_pl.errors import ConfigError

HOOKS = (
    "on_run_start",
    "on_first_stage_client_end",
    "on_first_mask",
    "on_client_end",
    "on_client_error",
    "on_round_end",
    "on_run_end",
    "on_run_abort",
    "on_save_checkpoint",
    "on_load_checkpoint",
)


def refuse_other_callbacks(callbacks: Sequence[Any]) -> None:
    """Callbacks have at least one of the hooks, and none that looks like one; a class, or a callback of Lightning's own
    Trainer, is none.

    Raises:
        ConfigError: no list, or what in it is no callback.
    """
    if not isinstance(callbacks, Sequence):
        raise ConfigError("callbacks", callbacks, "a list")
    for one in callbacks:
        if isinstance(one, Callback | type) or not any(callable(getattr(one, hook, None)) for hook in HOOKS):
            usable = "objects with hooks of the loop, such as on_round_end(loop, row), which may set loop.should_stop"
            raise ConfigError("callbacks", one, f"{usable}; Lightning's Trainer calls other hooks")
        for name in sorted(set(dir(one)) - {*HOOKS, *dir(Callback)}):
            if name.startswith("on_") and (near := get_close_matches(name, HOOKS, 1, 0.8)):
                raise ConfigError("callbacks", one, f"no {name}, which is never called; did you mean {near[0]}?")
