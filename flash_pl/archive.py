"""Archives as ``torch.save`` writes them, read without trust: plain values and dense tensors, within the file's size.

``torch.load(weights_only=True)`` runs no code from a file, but a few bytes can still fill the memory: a compressed
entry, a tensor that is larger than its storage, or ten million names for one tensor. ``load_archive`` checks each of
them before it allocates. It needs as much memory as the file has bytes, and a table row for each value.
"""

import collections
import sys
import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from flash_pl.errors import in_one_line
from flash_pl.plain_pickle import load_pickle

# Tensors may share a storage, and dimensions may be expanded. All tensors together have at most so many bytes for each
# byte of the file, and SHARED_BYTES more.
SHARING, SHARED_BYTES = 8, 1 << 20

_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_OTHER_DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_DTYPES = {str(dtype): dtype for dtype in _STORAGES.values()} | {
    f"torch.{name}": getattr(torch, name) for name in _OTHER_DTYPES if hasattr(torch, name)
}


def load_archive(source: str | Path | BinaryIO) -> Any:
    """Return what ``torch.save`` has written; tensors are on the CPU.

    The archive may hold None, booleans, numbers, texts, bytes, lists, tuples, dictionaries, sets, ``OrderedDict``,
    ``Counter``, and torch's dense tensors, parameters, sizes, dtypes and devices.

    >>> import io
    >>> file = io.BytesIO()
    >>> torch.save({"weights": torch.ones(2), "round": 3}, file)
    >>> load_archive(file)
    {'weights': tensor([1., 1.]), 'round': 3}
    >>> file = io.BytesIO()
    >>> torch.save(print, file)
    >>> load_archive(file)
    Traceback (most recent call last):
    ValueError: it names '__builtin__ print'

    Raises:
        OSError: the file cannot be read.
        ValueError: the archive is damaged or holds something else; the message is a clause about "it".
    """
    try:
        with zipfile.ZipFile(source) as archive:
            return _Archive(archive).load()
    except (OSError, ValueError):
        raise
    except Exception as error:  # a damaged archive can raise anything in its reader
        raise ValueError(f"it is damaged ({in_one_line(error)})") from error


class _Archive:
    """The entries of an archive and the storages that were read from it."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1 or len(set(names)) < len(names):
            raise ValueError("it is not an archive of torch.save")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(f"its entry {entry.filename[:100]!r} is compressed")
        self.archive, self.root = archive, roots[0]
        self.entries = {entry.filename: entry for entry in entries}
        self.size = sum(entry.file_size for entry in entries)
        end = archive.start_dir  # of all entries; two that overlap would be longer together
        if self.size > end:
            raise ValueError("its entries overlap")
        self.max_bytes = SHARED_BYTES + SHARING * self.size
        self.storages: dict[str, Tensor] = {}
        self.bools: set[str] = set()  # storages that hold only 0 and 1

    def load(self) -> Any:
        """The object in the archive."""
        if f"{self.root}/byteorder" in self.entries and self.read("byteorder") != sys.byteorder.encode():
            raise ValueError("it is from a machine with another order of bytes")
        functions: dict[str, Any] = {
            "torch._utils _rebuild_tensor_v2": self.tensor,
            "torch._utils _rebuild_tensor_v3": self.tensor_of_dtype,
            "torch._utils _rebuild_parameter": _parameter,
            "torch.storage UntypedStorage": torch.uint8,
        }
        functions |= {f"torch {name}Storage": dtype for name, dtype in _STORAGES.items()}
        functions |= {name.replace(".", " "): dtype for name, dtype in _DTYPES.items()} | _PLAIN
        return load_pickle(self.read("data.pkl"), functions, self.storage, _build, self.max_bytes)

    def read(self, name: str) -> bytes:
        """The bytes of an entry."""
        return self.archive.read(self.entries[f"{self.root}/{name}"])

    def storage(self, reference: Any) -> Tensor:
        """A storage as a flat tensor, from its persistent id ("storage", dtype, key, device, number of elements)."""
        kind, dtype, key, _, count = reference
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise ValueError("it refers to what is not a storage")
        if key not in self.storages:
            entry = self.entries[f"{self.root}/data/{key}"]
            data = torch.empty(entry.file_size, dtype=torch.uint8)
            view, place = data.numpy(), 0
            with self.archive.open(entry) as file:
                while chunk := file.read(1 << 20):
                    view[place : place + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
                    place += len(chunk)
            if place < entry.file_size:
                raise ValueError("a storage is incomplete")
            self.storages[key] = data
        data = self.storages[key]
        if type(count) is not int or count * dtype.itemsize != len(data):
            raise ValueError(f"a storage has {len(data)} bytes instead of those of {count} elements of {dtype}")
        if dtype == torch.bool and key not in self.bools:
            if len(data) and int(data.max()) > 1:
                raise ValueError("a bool is neither 0 nor 1")
            self.bools.add(key)  # many tensors may share one storage
        return data.view(dtype)

    def tensor(
        self,
        storage: Any,
        offset: Any,
        shape: Any,
        stride: Any,
        requires_grad: Any,
        hooks: Any,
        metadata: Any = None,
    ) -> Tensor:
        """A tensor within its storage."""
        if not isinstance(storage, Tensor) or hooks or metadata:
            raise ValueError("it holds a tensor that is not a dense one")
        for numbers in (shape, stride, (offset,)):
            if not isinstance(numbers, tuple) or not all(type(number) is int and number >= 0 for number in numbers):
                raise ValueError("the shape of a tensor is not made of positive numbers")
        if len(shape) != len(stride) or len(shape) > 64:
            raise ValueError("a tensor has as many strides as dimensions, at most 64")
        _check_bounds(len(storage), offset, shape, stride)
        # Expanded dimensions have several elements for one of the storage.
        if prod(max(1, size) for size in shape) * storage.itemsize > self.max_bytes:
            raise ValueError(f"a tensor of shape {list(shape)[:10]} is too large for its length")
        return storage.as_strided(shape, stride, offset).requires_grad_(requires_grad is True)

    def tensor_of_dtype(self, storage: Tensor, offset: int, shape: Any, *rest: Any) -> Tensor:
        """A tensor whose dtype has no class of storages."""
        stride, requires_grad, hooks, dtype, *metadata = rest
        return self.tensor(storage.view(dtype), offset, shape, stride, requires_grad, hooks, *metadata)


def _check_bounds(elements: int, offset: int, shape: Sequence[int], stride: Sequence[int]) -> None:
    """Check that a tensor lies within a storage with so many ``elements``."""
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if max((offset, *shape, *stride)) >= 2**62 or (0 not in shape and last >= elements):
        raise ValueError(f"a tensor of shape {list(shape)[:10]} does not lie within its storage of {elements} elements")


def _parameter(data: Tensor, requires_grad: bool, hooks: Any) -> torch.nn.Parameter:
    if hooks:
        raise ValueError("it holds a tensor that is not a dense one")
    return torch.nn.Parameter(data, requires_grad is True)


def _build(value: Any, state: Any) -> None:
    """``Module.state_dict`` is an OrderedDict with the versions of the modules in an attribute."""
    if type(value) is not collections.OrderedDict or not isinstance(state, dict) or state.keys() != {"_metadata"}:
        raise ValueError("it sets the state of a plain value")
    value._metadata = state["_metadata"]  # type: ignore[attr-defined]


def _bytes(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("its bytes are not in Latin-1")
    return text.encode(encoding)


def _bytearray(*source: Any) -> bytearray:
    """From a text and its encoding or from bytes; a number would ask for as many zeros."""
    if not source or isinstance(source[0], bytes):
        return bytearray(*source[:1])
    return bytearray(_bytes(*source))


def _size(sizes: tuple[int, ...]) -> torch.Size:
    if not isinstance(sizes, tuple) or not all(type(size) is int and abs(size) < 2**63 for size in sizes):
        raise ValueError("a size is not made of integers")
    return torch.Size(sizes)


def _counter(counts: dict[Any, int]) -> collections.Counter:
    return collections.Counter(dict(counts))


_PLAIN: dict[str, Any] = {
    "collections OrderedDict": lambda *pairs: collections.OrderedDict(*pairs),
    "collections Counter": _counter,
    "__builtin__ set": lambda values: set(values),
    "__builtin__ bytes": lambda: b"",  # as protocol 2 writes it
    "__builtin__ complex": complex,
    "__builtin__ bytearray": _bytearray,
    "builtins set": lambda values: set(values),
    "builtins complex": complex,
    "builtins bytearray": _bytearray,
    "_codecs encode": _bytes,
    "torch Size": _size,
    "torch device": torch.device,
}
