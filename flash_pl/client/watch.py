"""Looks at whether a step of a module does the same every time: its Python state, its draws and its questions."""

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sized
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

PLAIN = (int, float, complex, bool, str, bytes, type(None))
OURS = {"_client", "_fabric", "_trainer", "_modules", "_kept"}  # attributes that are not the user's
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
        self._alive: list[Any] = []  # so that no new object takes the identity of an old one
        self._state, self._draws = self._look(), self._generators()

    def change(self) -> str | None:
        """What has changed, in words; None if nothing has."""
        now = self._look()
        changed = [key for key in {*now, *self._state} if now.get(key, ()) != self._state.get(key, ())]
        if changed:
            return f"changes {min(changed)}"
        return "draws random numbers on the host" if self._generators() != self._draws else None

    def _look(self) -> dict[str, Any]:
        """A value to compare for each attribute of each part of the module."""
        found: dict[str, Any] = {}
        for name, part in self.module.named_modules():
            prefix = f"self.{name}." if name else "self."
            for key, value in vars(part).items():
                if key in ("_parameters", "_buffers"):
                    found |= {f"{prefix}{inner}": self._compared(tensor) for inner, tensor in value.items()}
                elif key not in OURS:
                    found[f"{prefix}{key}"] = self._compared(value)
        return found

    def _compared(self, value: Any, depth: int = 0) -> Any:
        """Something that is equal as long as ``value`` is the same."""
        if isinstance(value, PLAIN):
            return type(value), repr(value)  # NaN is not equal to itself
        self._alive.append(value)
        if isinstance(value, np.ndarray):
            return value.tobytes()
        if isinstance(value, Tensor | torch.nn.Module) or depth == DEPTH:
            return id(value)
        if isinstance(value, Sized) and len(value) > LONG:
            return id(value), len(value)
        if isinstance(value, Mapping):
            return [(repr(key), self._compared(inner, depth + 1)) for key, inner in value.items()]
        if isinstance(value, list | tuple | set | frozenset | deque):
            return [self._compared(inner, depth + 1) for inner in value]
        attributes = {} if isinstance(value, type) else getattr(value, "__dict__", {})
        return id(value), [(key, self._compared(inner, depth + 1)) for key, inner in attributes.items()]

    def _generators(self) -> list[Any]:
        kind, numbers, place, *_ = np.random.get_state()
        states = [random.getstate(), kind, np.asarray(numbers).tobytes(), place]
        return states if self.on_cpu else [*states, torch.default_generator.get_state().numpy().tobytes()]


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
