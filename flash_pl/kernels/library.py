"""The compiled kernels, loaded once; without them everything here still imports."""

import ctypes
import importlib.util
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor, float32

from flash_pl.errors import ConfigError
from flash_pl.kernels.pattern import SparsePattern

ISAS = ("avx512", "avx2", "baseline")  # widest first
VARIABLE = "FLASH_PL_ISA"
INTERFACE = 2  # of csrc/native.c: an editable install may have been compiled from older sources

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = {
    "gather": [_POINTER, _POINTER, _LONG, _POINTER],
    "scatter": [_POINTER, _POINTER, _LONG, _POINTER],
    "update": [_POINTER] * 3 + [_LONG] + [ctypes.c_float] * 2,
    "forward": [_POINTER] * 5 + [_LONG] * 3 + [_POINTER] * 2,
    "backward": [_POINTER] * 6 + [_LONG] * 5 + [_POINTER] * 4,
    "pool_forward": [_POINTER] * 2 + [_LONG] * 2 + [_POINTER] * 3,
    "pool_backward": [_POINTER] * 3 + [_LONG] * 2 + [_POINTER],
    "norm_forward": [_POINTER] * 4 + [_LONG] * 2 + [_POINTER] * 3,
    "norm_backward": [_POINTER] * 6 + [_LONG] * 2 + [_POINTER] * 3,
}


class Library:
    """The functions of ``csrc/native.c``; pointers are addresses, None is NULL."""

    def __init__(self, native: ctypes.CDLL) -> None:
        self._use = native.flash_pl_use
        self._use.argtypes, self._use.restype = [ctypes.c_char_p], ctypes.c_int
        for name, arguments in _ARGUMENTS.items():
            function = getattr(native, f"flash_pl_{name}")
            function.argtypes, function.restype = arguments, None
            setattr(self, name, function)
        asked = os.environ.get(VARIABLE)
        self.isa = ""
        for isa in (asked,) if asked else ISAS:
            if self.use(isa):
                return
        raise ConfigError(VARIABLE, asked, "an instruction set of this machine: " + ", ".join(self.isas()))

    gather: Any
    scatter: Any
    update: Any
    forward: Any
    backward: Any
    pool_forward: Any
    pool_backward: Any
    norm_forward: Any
    norm_backward: Any

    def use(self, isa: str) -> bool:
        """Compute with this instruction set from now on; False, and nothing changes, if the machine lacks it."""
        if not self._use(isa.encode()):
            return False
        self.isa = isa
        return True

    def isas(self) -> tuple[str, ...]:
        """The instruction sets of this machine, widest first."""
        before = self.isa or ISAS[-1]
        found = tuple(isa for isa in ISAS if self._use(isa.encode()))
        self._use(before.encode())
        return found


@cache
def library() -> Library | None:
    """The compiled kernels, or None where the package was installed without a compiler or from other sources.

    Raises:
        ConfigError: the environment asks for an instruction set that this machine lacks.
    """
    spec = importlib.util.find_spec("flash_pl.kernels._native")
    if spec is None or spec.origin is None:
        return None
    try:
        native = ctypes.CDLL(spec.origin)
        return Library(native) if native.flash_pl_interface() == INTERFACE else None
    except (OSError, AttributeError):
        return None


def available() -> bool:
    """Whether the compiled kernels are here; without them every layer is computed by torch."""
    return library() is not None


@cache
def warn_missing() -> None:
    """Say once that sparse kernels were asked for and are not here."""
    warnings.warn(
        "flash_pl was installed without its compiled kernels, or these are out of date; layers are computed by torch "
        "(install a C compiler, then flash_pl again)",
        RuntimeWarning,
        stacklevel=3,
    )


_scratch = threading.local()


def scratch(floats: int) -> int:
    """The address of this thread's scratch memory, at least ``floats`` long; what it holds is lost at the next call."""
    memory = getattr(_scratch, "memory", None)
    if memory is None or len(memory) < floats:
        _scratch.memory = None  # let go of the old one first
        memory = _scratch.memory = torch.empty(floats, dtype=torch.float32)
    return int(memory.data_ptr())


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="flash_pl")  # a forked process has none of its parent's


def spread(work: Callable[[int, int], None], ranges: Sequence[tuple[int, int]]) -> None:
    """Call ``work(first, last)`` for each range at the same time; the calling thread does its share."""
    if len(ranges) > 1:
        pool = _pool(os.getpid(), torch.get_num_threads())
        others = [pool.submit(work, *each) for each in ranges[1:]]
        work(*ranges[0])
        for other in others:
            other.result()
    elif ranges:
        work(*ranges[0])


def shares(count: int, parts: int) -> list[tuple[int, int]]:
    """``count`` things in at most ``parts`` ranges of about the same length.

    >>> shares(5, 2), shares(1, 4)
    ([(0, 2), (2, 5)], [(0, 1)])
    """
    ends = [count * part // parts for part in range(parts + 1)]
    return [(first, last) for first, last in zip(ends, ends[1:], strict=False) if first < last]


def check_layer(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern, dimensions: int) -> None:
    """Raise ValueError unless all are float32 on the CPU and fit each other."""
    check_tensors(x, weight, *(() if bias is None else (bias,)))
    if weight.dim() != dimensions or tuple(weight.shape) != pattern.shape:
        raise ValueError(f"the weight is {list(weight.shape)}, its pattern {list(pattern.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"the bias is {list(bias.shape)} for {weight.shape[0]} outputs")


def check_tensors(*tensors: Tensor) -> None:
    """Raise ValueError unless all are float32 on the CPU."""
    for tensor in tensors:
        if tensor.dtype != float32 or tensor.device.type != "cpu":
            raise ValueError(f"the kernels compute float32 on the CPU, not {tensor.dtype} on {tensor.device.type}")
