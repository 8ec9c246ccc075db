"""How a run calls the hooks of its callbacks, and what becomes of their errors."""

from typing import Any

from lightning.fabric import Fabric

from flash_pl.errors import EXPLAINED, CallbackError, describe_error, traceback_of


def call_hooks(fabric: Fabric, hook: str, **arguments: Any) -> None:
    """Call ``hook`` of all callbacks, as ``Fabric.call`` does; the first one that fails ends the calls.

    >>> class Broken:
    ...     def on_run_start(self, loop):
    ...         raise KeyError("x")
    >>> call_hooks(Fabric(accelerator="cpu", callbacks=[Broken()]), "on_run_start", loop=None)
    Traceback (most recent call last):
    flash_pl.errors.CallbackError: Broken.on_run_start: KeyError: 'x' (<doctest flash_pl.loops.hooks.call_hooks[0]>:3)

    Raises:
        CallbackError: names the callback and the hook.
    """
    for callback in fabric._callbacks:
        _call(fabric, callback, hook, arguments)


def call_all_hooks(fabric: Fabric, hook: str, **arguments: Any) -> list[Exception]:
    """Call ``hook`` of all callbacks, also of those after one that fails, and return the errors."""
    errors: list[Exception] = []
    for callback in fabric._callbacks:
        try:
            _call(fabric, callback, hook, arguments)
        except EXPLAINED as error:
            errors.append(error)
    return errors


def _call(fabric: Fabric, callback: Any, hook: str, arguments: dict[str, Any]) -> None:
    method = getattr(callback, hook, None)
    if not callable(method):
        return
    try:
        method(**fabric._filter_kwargs_for_callback(method, arguments))
    except EXPLAINED:
        raise
    except (Exception, SystemExit, GeneratorExit) as error:  # a callback cannot end the process alone
        reason = f"{type(callback).__name__}.{hook}: {describe_error(error)}"
        raise CallbackError(reason, traceback_of(error)) from error
