"""How a run calls the hooks of its callbacks, and what becomes of their errors."""

import inspect
from collections.abc import Callable
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
        _call(callback, hook, arguments)


def call_all_hooks(fabric: Fabric, hook: str, **arguments: Any) -> list[Exception]:
    """Call ``hook`` of all callbacks, also of those after one that fails, and return the errors."""
    errors: list[Exception] = []
    for callback in fabric._callbacks:
        try:
            _call(callback, hook, arguments)
        except EXPLAINED as error:
            errors.append(error)
    return errors


def accepted(method: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return those of ``arguments`` that ``method`` takes: a hook need not name what it does not use.

    >>> accepted(lambda loop: None, {"loop": 1, "row": 2})
    {'loop': 1}
    >>> accepted(lambda **everything: None, {"loop": 1, "row": 2})
    {'loop': 1, 'row': 2}

    Lightning's ``Fabric.call`` does the same, but not before version 2.6.
    """
    try:
        parameters = inspect.signature(method).parameters
    except (TypeError, ValueError):  # a method in C need not tell
        return arguments
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def _call(callback: Any, hook: str, arguments: dict[str, Any]) -> None:
    method = getattr(callback, hook, None)
    if not callable(method):
        return
    try:
        method(**accepted(method, arguments))
    except EXPLAINED:
        raise
    except (Exception, SystemExit, GeneratorExit) as error:  # a callback cannot end the process alone
        reason = f"{type(callback).__name__}.{hook}: {describe_error(error)}"
        raise CallbackError(reason, traceback_of(error)) from error
