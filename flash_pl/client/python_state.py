"""The Python state of a module: everything that its step may read besides the values of the module's own tensors."""

import functools
import inspect
import logging
import pickle
import random
import re
import types
import weakref
from collections import defaultdict, deque
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

OURS = {"_client", "_fabric", "_trainer", "_kept", "_run_facts"}  # attributes that are not the user's
DEPTH = 30  # how deep attributes of attributes are followed
LONG = 100_000  # objects and entries of a whole module
LARGE = 1 << 20  # bytes of an array of numpy
# Their classes and functions keep no state that a step could change.
LIBRARIES = {"builtins", "abc", "collections", "enum", "functools", "typing", "torch", "torchmetrics", "numpy"}
LIBRARIES |= {"lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning", "flash_pl"}
PLAIN = {int, bool, str, bytes, type(None), type(...), type(NotImplemented), range}
CONTAINERS = (list, tuple, set, frozenset, deque)


class PythonState(NamedTuple):
    """What a step may read of a module.

    Attributes:
        values: for each attribute something hashable, which is equal as long as the attribute is the same.
        tensors: tensors that are neither parameters nor buffers of the module, each with the attribute it is in.
        problem: why the state cannot be compared; None if it can.
    """

    values: dict[str, Any]
    tensors: list[tuple[str, Tensor]]
    problem: str | None


FIXED = (
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, Enum, np.dtype, types.ModuleType, property),
    *(functools.cached_property, inspect.Signature, types.MethodDescriptorType, types.WrapperDescriptorType),
    *(logging.Logger, re.Pattern, type(PythonState.problem)),  # the last: fields of named tuples
    *(types.GetSetDescriptorType, types.MemberDescriptorType, types.ClassMethodDescriptorType, types.CodeType),
)


def python_state(module: nn.Module, metrics: bool = True) -> PythonState:
    """Return the state of a module now, with the attributes of its classes.

    Args:
        metrics: with the torchmetrics in it, which every evaluation changes.

    >>> layer = nn.Dropout(0.5)
    >>> before = python_state(layer)
    >>> layer.p = 0.4
    >>> {name for name, value in python_state(layer).values.items() if value != before.values[name]}
    {'self.p'}
    >>> layer.numbers = iter([1, 2])
    >>> python_state(layer).problem
    'self.numbers has a list_iterator, which may change unseen'
    """
    reader = _Reader(module, metrics)
    problem = None
    try:
        reader.read_module("self.", module)
        reader.read_classes()
    except _UnknownError as error:
        problem = f"{reader.path} has {error}"
    except Exception as error:  # objects of users may refuse to be read, each in its own way
        problem = f"{reader.path} cannot be read: {type(error).__name__}"
    return PythonState(reader.values, reader.tensors, problem)


class Same:
    """Is equal to another one that holds the same object. As long as it is kept, no other object gets its identity."""

    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


class _UnknownError(Exception):
    """An object whose state cannot be compared; the message names it."""


class _Reader:
    """Walks through a module. Only kinds of objects that are known to be read completely are let through."""

    def __init__(self, module: nn.Module, metrics: bool) -> None:
        self.values: dict[str, Any] = {}
        self.tensors: list[tuple[str, Tensor]] = []
        self.path = "self"
        self._metrics, self._left = metrics, LONG
        self._own = set(map(id, (*module.parameters(), *module.buffers())))
        self._met: set[int] = set()
        self._classes: dict[type, None] = {}

    def read_module(self, prefix: str, module: nn.Module) -> None:
        """Read the attributes of a part of the module, under their names."""
        self._met.add(id(module))
        self.values[prefix] = self._class(type(module))
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                for name, tensor in value.items():
                    self._note(f"{prefix}{name}", tensor)
            elif key == "_modules":
                for name, part in value.items():
                    if part is None or id(part) in self._met or (isinstance(part, Metric) and not self._metrics):
                        self.values[f"{prefix}{name}"] = Same(part)
                    else:
                        self.read_module(f"{prefix}{name}.", part)
            elif not (isinstance(module, L.LightningModule) and key in OURS):
                self._note(f"{prefix}{key}", value)

    def read_classes(self) -> None:
        """Read the attributes of the users' classes of all objects that were met."""
        done: set[type] = set()
        while rest := [cls for cls in self._classes if cls not in done]:
            for cls in rest:
                done.add(cls)
                for key, value in list(vars(cls).items()):
                    if not key.startswith(("__", "_abc_")) and key not in OURS:
                        self._note(f"{cls.__name__}.{key}", value)

    def _note(self, path: str, value: Any) -> None:
        self.path = path
        # Two classes may have one name.
        self.values[path] = (*self.values.get(path, ()), self._read(value, 0))

    def _read(self, value: Any, depth: int) -> Any:
        """Something hashable that is equal as long as ``value`` is the same."""
        kind = type(value)
        if kind in PLAIN:
            return kind, value
        if kind in (float, complex):
            return kind, repr(value)  # NaN is not equal to itself, and 0.0 is equal to -0.0
        if id(value) in self._met:
            return Same(value)
        self._met.add(id(value))
        self._left -= 1 + (len(value) if isinstance(value, (dict, *CONTAINERS)) else 0)
        if depth > DEPTH or self._left < 0:
            raise _UnknownError("too many values to compare them")
        if isinstance(value, FIXED) or (isinstance(value, Metric) and not self._metrics):
            return Same(value)
        if isinstance(value, Tensor):
            return self._tensor(value, depth)
        parts = self._parts(value, kind)
        return self._class(kind), *(self._read(part, depth + 1) for part in parts)

    def _parts(self, value: Any, kind: type) -> list[Any]:
        """What makes up ``value``; plain values in it are made here, other objects are its own."""
        own = list(vars(value).items()) if hasattr(value, "__dict__") and not isinstance(value, type) else []
        attributes = [part for key, held in own if not _is_ours(value, key) for part in (key, held)]
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.hasobject or value.nbytes > LARGE:
                raise _UnknownError("a large array, or one of objects")
            return [str(value.dtype), *value.shape, value.tobytes(), *attributes]
        if (state := _generator_state(value)) is not None:
            return [state, *attributes]
        if isinstance(value, PurePath | bytearray):
            return [str(value) if isinstance(value, PurePath) else bytes(value), *attributes]
        if isinstance(value, type):
            self._class(value)
            return [f"{value.__module__}.{value.__qualname__}", id(value)]
        if isinstance(value, weakref.ref):
            return [value()]
        if isinstance(value, staticmethod | classmethod):
            return [value.__func__]
        if isinstance(value, types.MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, types.BuiltinFunctionType):
            return [value.__name__, value.__self__]
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
            return [value.__code__, value.__defaults__, value.__kwdefaults__, *cells, *attributes]
        if isinstance(value, functools.partial):
            return [value.func, value.args, value.keywords, *attributes]
        if any(vars(cls).get("__slots__") for cls in kind.__mro__):
            raise _UnknownError(f"a {kind.__name__}, whose __slots__ may change unseen")
        if isinstance(value, dict | types.MappingProxyType):
            factory = [value.default_factory] if isinstance(value, defaultdict) else []
            return [*factory, len(value), *(part for item in value.items() for part in item), *attributes]
        if isinstance(value, CONTAINERS):
            return [len(value), *value, *attributes]
        # Objects of classes that are written in C, or are derived from such, are larger: they have hidden state.
        if kind.__basicsize__ > _Object.__basicsize__ or not hasattr(value, "__dict__"):
            raise _UnknownError(f"a {kind.__name__}, which may change unseen")
        return attributes

    def _tensor(self, tensor: Tensor, depth: int) -> Any:
        own = id(tensor) in self._own
        if tensor.layout is not torch.strided or tensor.is_inference():
            raise _UnknownError("a sparse tensor, or one of inference mode")
        if not own and type(tensor) not in (Tensor, nn.Parameter):
            raise _UnknownError(f"a {type(tensor).__name__}, which may change unseen")
        facts = [tensor.data_ptr(), *tensor.shape, tensor.requires_grad, *vars(tensor)]
        parts = list(vars(tensor).values())
        if not own:
            self.tensors.append((self.path, tensor))
            facts.append(tensor._version)
            # A number on the host becomes a constant of the step.
            facts += [repr(tensor.item())] if tensor.device.type == "cpu" and tensor.numel() == 1 else []
            parts += [tensor.grad] if tensor.is_leaf else []
        return Same(tensor), *facts, *(self._read(part, depth + 1) for part in parts)

    def _class(self, kind: type) -> Same:
        for cls in kind.__mro__:
            if not _is_library(cls):
                self._classes[cls] = None
        return Same(kind)


class _Object:
    """For the size of objects that have nothing but attributes."""


def _is_library(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in LIBRARIES


def _is_ours(value: Any, key: str) -> bool:
    return isinstance(value, L.LightningModule) and key in OURS


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # raises if the variable has no value yet
    except ValueError:
        return True
    return False


def _generator_state(value: Any) -> bytes | None:
    """The state of a generator of random numbers; None for other objects."""
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return pickle.dumps(value.bit_generator.state)
    if isinstance(value, np.random.BitGenerator):
        return pickle.dumps(value.state)
    if isinstance(value, np.random.RandomState):
        return pickle.dumps(value.get_state(legacy=False))
    return pickle.dumps(value.getstate()) if isinstance(value, random.Random) else None
