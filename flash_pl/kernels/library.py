"""The compiled kernels: how they are loaded, called from several threads, and given tensors and scratch memory."""

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
from flash_pl.kernels.geometry import Machine

ISAS = ("avx512", "avx2", "baseline")  # instruction sets, widest first
ISA_VARIABLE = "FLASH_PL_ISA"
INTERFACE = 7  # version of csrc/native.c; an editable installation can have a library compiled from older sources

SMALLEST_PART = 1 << 16  # elements of a vector that are worth a thread

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64
ARGUMENTS = {
    "gather": [_POINTER, _POINTER, _LONG, _POINTER],
    "scatter": [_POINTER, _POINTER, _LONG, _POINTER],
    "scatter_add": [_POINTER, _POINTER, _LONG, _POINTER],
    "update": [_POINTER] * 3 + [_LONG] + [ctypes.c_float] * 2,
    "masked": [_POINTER] * 2 + [_LONG, _POINTER],
    "prune": [_POINTER] * 2 + [_LONG],
    "accumulate": [_POINTER, _LONG, ctypes.c_double, _POINTER],
    "multiply": [_POINTER] * 7 + [_LONG] * 2 + [_POINTER] * 3,
    "correlate": [_POINTER] * 7 + [_LONG] * 2 + [_POINTER] * 2,
    "interleave": [_POINTER] + [_LONG] * 5 + [_POINTER],
    "separate": [_POINTER] + [_LONG] * 5 + [_POINTER],
    "pool_forward": [_POINTER] * 2 + [_LONG] * 2 + [_POINTER] * 2,
    "pool_backward": [_POINTER] * 3 + [_LONG] * 2 + [_POINTER],
    "moments": [_POINTER] * 2 + [_LONG] * 2 + [_POINTER] * 2,
    "norm_forward": [_POINTER] * 7 + [_LONG] * 2 + [_POINTER],
    "norm_backward": [_POINTER] * 8 + [_LONG] * 2 + [_POINTER] * 4,
    "totals": [_POINTER] * 2 + [_LONG] * 2 + [_POINTER],
    "draw": [_POINTER] * 2 + [_LONG] * 2 + [_POINTER],
}


class Library:
    """The functions of ``csrc/native.c``. Pointers are addresses; None is NULL.

    Raises:
        ConfigError: the environment variable FLASH_PL_ISA names an instruction set that this machine does not have.
    """

    def __init__(self, native: ctypes.CDLL) -> None:
        self._use = native.flash_pl_use
        self._use.argtypes, self._use.restype = [ctypes.c_char_p], ctypes.c_int
        for name, arguments in ARGUMENTS.items():
            function = getattr(native, f"flash_pl_{name}")
            function.argtypes, function.restype = arguments, None
            setattr(self, name, function)
        self.lists = native.flash_pl_lists
        self.lists.argtypes, self.lists.restype = [_POINTER] * 7, ctypes.c_int
        self.largest_outside = native.flash_pl_largest_outside
        self.largest_outside.argtypes, self.largest_outside.restype = [_POINTER, _POINTER, _LONG], ctypes.c_int32
        self._sizes = native.flash_pl_vector, native.flash_pl_registers
        requested = os.environ.get(ISA_VARIABLE)
        self.isa, self.machine = "", Machine(0, 0)
        for isa in (requested,) if requested else ISAS:
            if self.use(isa):
                return
        problem = f"{requested!r} is not an instruction set of this machine"
        raise ConfigError(ISA_VARIABLE, problem, f"use one of {', '.join(self.isas())}")

    gather: Any
    scatter: Any
    scatter_add: Any
    update: Any
    masked: Any
    prune: Any
    accumulate: Any
    multiply: Any
    correlate: Any
    interleave: Any
    separate: Any
    pool_forward: Any
    pool_backward: Any
    moments: Any
    norm_forward: Any
    norm_backward: Any
    totals: Any
    draw: Any

    def use(self, isa: str) -> bool:
        """Use this instruction set from now on. Return False and change nothing if the machine does not have it."""
        if not self._use(isa.encode()):
            return False
        self.isa = isa
        self.machine = Machine(*(size() for size in self._sizes))
        return True

    def isas(self) -> tuple[str, ...]:
        """Return the instruction sets of this machine, widest first."""
        current = self.isa or ISAS[-1]
        isas = tuple(isa for isa in ISAS if self._use(isa.encode()))
        self._use(current.encode())
        return isas


@cache
def library() -> Library | None:
    """Return the compiled kernels, or None if they are missing or were compiled from other sources.

    Raises:
        ConfigError: the environment variable FLASH_PL_ISA names an instruction set that this machine does not have.
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
    """Return whether the compiled kernels are installed. Without them torch computes every layer."""
    return library() is not None


def compiled() -> Library:
    """Return the compiled kernels; the caller has checked that they are available."""
    native = library()
    assert native is not None, "the caller must check available()"
    return native


@cache
def warn_missing() -> None:
    """Warn once that sparse kernels are requested but not installed."""
    warnings.warn(
        "the compiled kernels of flash_pl are missing or out of date, so torch computes the layers "
        "(install a C compiler, then reinstall flash_pl)",
        RuntimeWarning,
        stacklevel=3,
    )


def check_tensors(*tensors: Tensor) -> None:
    """Check that the kernels can compute with all tensors.

    Raises:
        ValueError: a tensor is not float32 on the CPU.
    """
    for tensor in tensors:
        if tensor.dtype != float32 or tensor.device.type != "cpu":
            raise ValueError(f"the kernels need float32 on the CPU, not {tensor.dtype} on {tensor.device.type}")


def check_saved(tensor: Tensor, shape: Sequence[int]) -> None:
    """Check a tensor that the forward pass saved, before the backward pass.

    A new ``tensor.data`` goes unnoticed by autograd; the kernels would read and write beyond its memory.

    Raises:
        ValueError: it has another shape, dtype or device by now.
    """
    check_tensors(tensor)
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"a tensor of shape {[*shape]} has become one of {[*tensor.shape]} since the forward pass")


def address(tensor: Tensor | None) -> int | None:
    """Return the address of the first element, or None for None."""
    return None if tensor is None else tensor.data_ptr()


def address_at(vector: Tensor, index: int) -> int:
    """Return the address of an element of a contiguous vector."""
    return vector.data_ptr() + index * vector.element_size()


_scratch = threading.local()


def scratch(floats: int) -> int:
    """Return the address of this thread's scratch memory of at least ``floats`` floats.

    The next call of the same thread may overwrite or free it.
    """
    memory = getattr(_scratch, "memory", None)
    if memory is None or len(memory) < floats:
        _scratch.memory = None  # free the old memory first
        memory = _scratch.memory = torch.empty(floats, dtype=torch.float32)
    return int(memory.data_ptr())


@cache
def _thread_pool(process: int, workers: int) -> ThreadPoolExecutor:
    # The process is part of the cache key because a forked process does not have the threads of its parent.
    return ThreadPoolExecutor(workers, thread_name_prefix="flash_pl")


def run_in_threads(work: Callable[[int, int], None], ranges: Sequence[tuple[int, int]]) -> None:
    """Call ``work(first, last)`` for each range at the same time; the calling thread takes the first range."""
    if len(ranges) > 1:
        pool = _thread_pool(os.getpid(), torch.get_num_threads())
        futures = [pool.submit(work, *each) for each in ranges[1:]]
        work(*ranges[0])
        for future in futures:
            future.result()
    elif ranges:
        work(*ranges[0])


def split_range(count: int, parts: int) -> list[tuple[int, int]]:
    """Split ``range(count)`` into at most ``parts`` ranges of about the same length, none of them empty.

    >>> split_range(5, 2), split_range(1, 4)
    ([(0, 2), (2, 5)], [(0, 1)])
    """
    ends = [count * part // parts for part in range(parts + 1)]
    return [(first, last) for first, last in zip(ends, ends[1:], strict=False) if first < last]


def run_in_parts(work: Callable[[int, int], None], count: int) -> None:
    """Call ``work(first, last)`` for parts of a vector of ``count`` elements, as many as are worth a thread."""
    run_in_threads(work, split_range(count, min(torch.get_num_threads(), 1 + count // SMALLEST_PART)))
