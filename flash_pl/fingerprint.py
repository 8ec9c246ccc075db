"""A digest of a state: equal states have equal digests on every device, in every process."""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

Fingerprint = dict[tuple[str, str], bytes]  # digest by part and key

DIGEST = 16  # bytes
COLUMNS = 4096  # words that are summed to one number
# Rows are multiplied in chunks: on a CPU a chunk stays in the cache, on a GPU few chunks are few kernels to launch.
ROWS_CPU, ROWS_GPU = 16, 1024


def fingerprint(parts: Mapping[str, Mapping[Any, Any]]) -> Fingerprint:
    """Return the digest of every value of every part.

    Values are tensors and plain values, nested in mappings, sequences and sets; also arrays of numpy and generators of
    random numbers. The order of a mapping or a set does not matter, nor does the device of a tensor. Numbers are equal
    if their bits are. Of an object of any other class only the class counts: its text may hold an address.

    On a GPU one number for each 16 KiB of tensors is computed there, and the host waits once for all of them. A tensor
    in which one bit has changed, or two unequal values of at most 32 bits have changed places, has other numbers.

    >>> first = fingerprint({"scheduler": {"scores": torch.tensor([1.0, 2.0]), "seen": {3, 5}, "rate": 0.1}})
    >>> second = fingerprint({"scheduler": {"rate": 0.1, "seen": {5, 3}, "scores": torch.tensor([2.0, 1.0])}})
    >>> [key for key in first if first[key] != second[key]]
    [('scheduler', 'scores')]
    """
    values = {(part, str(key)): value for part, state in parts.items() for key, value in state.items()}
    sums = _Sums(list(_tensors(list(values.values()))))
    return {key: _digest(_encoded(value, sums)) for key, value in values.items()}


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


# Plain values


def _opened(value: Any) -> Any:
    """The content of an object that stands for plain values, else the object itself."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in a nested value."""
    value = _opened(value)
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _encoded(value: Any, sums: "_Sums") -> bytes:
    """A nested value as bytes that are its own; tensors are encoded by their ``sums``."""
    value = _opened(value)
    if isinstance(value, Tensor):
        return _framed("tensor", str(value.dtype).encode(), str(tuple(value.shape)).encode(), next(sums))
    if isinstance(value, Mapping):
        items = [(_encoded(_plain_key(key), sums), _encoded(item, sums)) for key, item in value.items()]
        return _framed("mapping", *(_framed("item", *item) for item in sorted(items)))
    if isinstance(value, list | tuple):
        return _framed("sequence", *(_encoded(item, sums) for item in value))
    if isinstance(value, Set) and not any(map(_has_tensors, value)):  # tensors have no order there
        return _framed("set", *sorted(_encoded(item, sums) for item in value))
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        return _framed("array", value.dtype.str.encode(), str(value.shape).encode(), value.tobytes())
    if isinstance(value, bytes | bytearray):
        return _framed("bytes", value)
    for kind in (bool, int, float, complex, str):
        if isinstance(value, kind):
            return _framed(kind.__name__, kind.__repr__(value).encode())
    if value is None or isinstance(value, torch.dtype):
        return _framed("name", str(value).encode())
    return _framed("object", f"{type(value).__module__}.{type(value).__qualname__}".encode())


def _plain_key(key: Any) -> Any:
    """A key of a mapping; of a tensor only the class counts."""
    return type(key).__qualname__ if _has_tensors(key) else key


def _has_tensors(value: Any) -> bool:
    return next(_tensors(value), None) is not None


def _framed(kind: str, *fields: bytes | bytearray) -> bytes:
    """Fields with their lengths, so that no other fields give the same bytes."""
    return b"".join([kind.encode(), b"[%d]" % len(fields), *(b"%d:" % len(field) + field for field in fields)])


# Tensors


class _Sums(Iterator[bytes]):
    """The sums of tensors, one after the other; a tensor that comes twice is summed once."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._order = iter([id(tensor) for tensor in tensors])
        distinct = {id(tensor): tensor for tensor in tensors}
        rows = {key: _row_sums(tensor.detach()) for key, tensor in distinct.items()}
        self._of: dict[int, bytes] = {}
        for device in {tensor.device for tensor in rows.values()}:
            there = {key: tensor for key, tensor in rows.items() if tensor.device == device}
            together = torch.cat(list(there.values())).cpu()  # the only wait for this device
            for key, part in zip(there, together.split([len(tensor) for tensor in there.values()]), strict=True):
                self._of[key] = part.numpy().tobytes()

    def __next__(self) -> bytes:
        return self._of[next(self._order)]


def _row_sums(tensor: Tensor) -> Tensor:
    """For every ``COLUMNS`` words of 32 bits the sum of the words times their coefficients, modulo 2^64, int64.

    A coefficient is odd, so a word that changes by less than 2^32 always changes its sum. The lowest 33 bits of all
    coefficients differ, so the exchange of two words of a row changes its sum, too.
    """
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    data = tensor.resolve_neg().contiguous().view(-1)
    size, start = data.element_size(), data.storage_offset() * data.element_size()
    if start % 4:
        data = data.clone()
    whole = len(data) * size // (4 * COLUMNS) * (4 * COLUMNS) // size  # values in whole rows
    tail = torch.zeros(4 * COLUMNS, dtype=torch.uint8, device=data.device)
    tail[: (len(data) - whole) * size] = data[whole:].view(torch.uint8)
    rows = [data[:whole].view(torch.int32).view(-1, COLUMNS), tail.view(torch.int32).view(1, COLUMNS)]
    height = min(len(rows[0]) + 1, ROWS_CPU if data.device.type == "cpu" else ROWS_GPU)
    products = torch.empty(height, COLUMNS, dtype=torch.int64, device=data.device)
    chunks = [chunk for part in rows if len(part) for chunk in part.split(height)]
    factors = _coefficients(data.device)
    return torch.cat([torch.mul(chunk, factors, out=products[: len(chunk)]).sum(1) for chunk in chunks])


@cache
def _coefficients(device: torch.device) -> Tensor:
    draws = torch.randint(-(1 << 62), 1 << 62, (COLUMNS,), generator=torch.Generator().manual_seed(1))
    return (2 * draws + 1).to(device)
