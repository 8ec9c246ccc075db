"""Looks at whether a step of a module does the same every time: its Python state, its draws and its questions."""

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sized
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

PLAIN = (int, float, complex, bool, str, bytes, type(None))
OURS = {"_client", "_fabric", "_trainer", "_modules", "_kept", "_run_facts"}  # attributes that are not the user's
LONG = 10_000  # entries of a list above which only its length is compared
DEPTH = 4  # how deep attributes of attributes are followed


class StepWatch:
    """Sees whether what ran between its making and ``change`` has left traces on the host.

    A step that counts in an attribute, for example, may compute something else next time. Variables outside of the
    module are not seen.

    Args:
        module: whose step runs.
        device: where it runs; the generator of a CPU may be drawn from on a GPU only.

    >>> class Counting(L.LightningModule):
    ...     steps = 0
    >>> module = Counting()
    >>> watch = StepWatch(module, torch.device("cpu"))
    >>> watch.change() is None
    True
    >>> module.steps += 1
    >>> watch.change()
    'changes self.steps'
    """

    def __init__(self, module: L.LightningModule, device: torch.device) -> None:
        self.module, self.on_cpu = module, device.type == "cpu"
        self._before, self._draws = python_state(module), self._generators()

    def change(self) -> str | None:
        """What has changed, in words; None if nothing has."""
        before, now = self._before.values, python_state(self.module).values
        changed = [key for key in {*now, *before} if now.get(key, ()) != before.get(key, ())]
        if changed:
            return f"changes {min(changed)}"
        return "draws random numbers on the host" if self._generators() != self._draws else None

    def _generators(self) -> list[Any]:
        kind, numbers, place, *_ = np.random.get_state()
        states = [random.getstate(), kind, np.asarray(numbers).tobytes(), place]
        return states if self.on_cpu else [*states, torch.default_generator.get_state().numpy().tobytes()]


class PythonState(NamedTuple):
    """What a step may read of a module besides its tensors.

    Attributes:
        values: for each attribute of each part something hashable, which is equal as long as the attribute is the same.
        alive: the objects in it, so that no new one takes the identity of an old one.
    """

    values: dict[str, Any]
    alive: list[Any]


def python_state(module: nn.Module, metrics: bool = True) -> PythonState:
    """Return the state of a module now.

    Args:
        metrics: with the torchmetrics in it, which every evaluation changes.

    >>> layer = nn.Dropout(0.5)
    >>> before = python_state(layer)
    >>> layer.p = 0.4
    >>> {name for name, value in python_state(layer).values.items() if value != before.values[name]}
    {'self.p'}
    """
    state = PythonState({}, [])
    for name, part in module.named_modules():
        prefix = f"self.{name}." if name else "self."
        if isinstance(part, Metric) and not metrics:
            continue
        for key, value in vars(part).items():
            if key in ("_parameters", "_buffers"):
                state.values.update({f"{prefix}{inner}": _hashable(t, state.alive) for inner, t in value.items()})
            elif key not in OURS:
                state.values[f"{prefix}{key}"] = _hashable(value, state.alive)
    return state


def _hashable(value: Any, alive: list[Any], depth: int = 0) -> Any:
    """Something hashable that is equal as long as ``value`` is the same."""
    if isinstance(value, PLAIN):
        return type(value), repr(value)  # NaN is not equal to itself
    alive.append(value)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, Tensor | nn.Module) or depth == DEPTH:
        return id(value)
    if isinstance(value, Sized) and len(value) > LONG:
        return id(value), len(value)
    if isinstance(value, Mapping):
        return tuple((repr(key), _hashable(inner, alive, depth + 1)) for key, inner in value.items())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return tuple(_hashable(inner, alive, depth + 1) for inner in value)
    attributes = {} if isinstance(value, type) else getattr(value, "__dict__", {})
    return id(value), tuple((key, _hashable(inner, alive, depth + 1)) for key, inner in attributes.items())


class WatchedIndex(int):
    """The index of a batch that notes whether anybody uses it.

    >>> index = WatchedIndex(3)
    >>> index.used, index % 2, index.used
    (False, 1, True)
    """

    used = False


def _noting(name: str) -> Any:
    original = getattr(int, name)

    def method(self: WatchedIndex, *others: Any) -> Any:
        self.used = True
        return original(self, *others)

    return method


USES: Iterable[str] = (
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__bool__", "__index__", "__int__"),
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__mod__", "__rmod__", "__divmod__"),
    *("__floordiv__", "__rfloordiv__", "__truediv__", "__rtruediv__", "__pow__", "__rpow__", "__neg__", "__pos__"),
    *("__and__", "__rand__", "__or__", "__ror__", "__xor__", "__rxor__", "__lshift__", "__rshift__", "__invert__"),
    *("__str__", "__repr__", "__format__", "__float__", "__abs__", "__round__", "__rlshift__", "__rrshift__"),
)
for _name in USES:
    setattr(WatchedIndex, _name, _noting(_name))
