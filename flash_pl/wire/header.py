"""What a ``.flash`` file says of itself before its payload."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flash_pl.errors import PayloadError
from flash_pl.sparsity import Layout


class Reader:
    """Takes pieces from the front of ``data``; a piece that is not there is a ``PayloadError``."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = memoryview(data), 0

    def take(self, size: int) -> memoryview:
        """The next ``size`` bytes."""
        if not 0 <= size <= len(self.data) - self.place:
            raise PayloadError(f"{size} bytes wanted at {self.place}, {len(self.data) - self.place} are left")
        self.place += size
        return self.data[self.place - size : self.place]

    def integer(self, size: int) -> int:
        """An unsigned little-endian integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def number(self, limit: int) -> int:
        """A number that ``number`` wrote, at most ``limit``."""
        value = shift = 0
        while True:
            byte = self.integer(1)
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 63:
                raise PayloadError("a number of more than 63 bits")
        if value > limit:
            raise PayloadError(f"{value} where at most {limit} is possible")
        return value

    def bits(self, count: int) -> NDArray[np.uint8]:
        """The next ``count`` bits, one a uint8; those that fill up the last byte must be 0."""
        taken = np.frombuffer(self.take(-(-count // 8)), dtype=np.uint8)
        flags = np.unpackbits(taken)
        if flags[count:].any():
            raise PayloadError("the bits that fill up a byte are not 0")
        return flags[:count]

    def end(self) -> None:
        """Nothing may be left."""
        if self.place != len(self.data):
            raise PayloadError(f"{len(self.data) - self.place} bytes too many")


def number(value: int) -> bytes:
    """A whole number below 2^63 in as few bytes as it needs, seven bits each, the lowest first.

    >>> number(5), number(300)
    (b'\\x05', b'\\xac\\x02')
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


DIMENSIONS = 8  # at most so many of a tensor
Shapes = Sequence[tuple[str, Sequence[int]]]  # names and shapes of row-major tensors


@dataclass(frozen=True)
class Header:
    """JSON with the tensors that can be masked (``layers``), the other float32 tensors (``rest``), the length of the
    ``payload`` and ``facts`` about the model."""

    layers: Shapes
    rest: Shapes
    payload: int
    facts: dict[str, str]

    def encode(self) -> bytes:
        """The header as it stands in the file."""
        return json.dumps(vars(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, text: bytes, limit: int) -> "Header":
        """What ``encode`` wrote, of a model of at most ``limit`` elements.

        Raises:
            PayloadError: it did not write this, or the model is larger.
        """
        try:
            found = json.loads(text)
            json.dumps(found, ensure_ascii=False).encode()  # JSON can hold half characters, which nobody can print
        except (ValueError, RecursionError) as error:
            raise PayloadError("the header is no JSON") from error
        if not isinstance(found, dict) or found.keys() != cls.__dataclass_fields__.keys():
            raise PayloadError(f"the header has other keys than {', '.join(cls.__dataclass_fields__)}")
        layers, rest = _shapes(found["layers"]), _shapes(found["rest"])
        elements = sum(prod(max(1, size) for size in shape) for _, shape in [*layers, *rest])
        if elements > limit:
            raise PayloadError(f"a model of {elements} elements; at most {limit} are allowed")
        if type(found["payload"]) is not int:
            raise PayloadError("the length of the payload is no integer")
        facts = found["facts"]
        if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
            raise PayloadError("the facts are not names and texts")
        return cls(layers, rest, found["payload"], facts)

    def layout(self) -> Layout:
        """The tensors one behind the other.

        Raises:
            PayloadError: no layers, or a name that comes twice.
        """
        plan = [[name, "maskable", shape, _row_major(shape)] for name, shape in self.layers]
        plan += [[name, "parameter", shape, _row_major(shape)] for name, shape in self.rest]
        try:
            return Layout.from_specification(plan)
        except ValueError as error:
            raise PayloadError(str(error)) from error


def _shapes(entries: Any) -> Shapes:
    if not isinstance(entries, list):
        raise PayloadError("the tensors are no list")
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str) or not _is_shape(entry[1]):
            raise PayloadError(f"a tensor is described by a name and a shape, not by {str(entry)[:80]}")
    return [(name, shape) for name, shape in entries]


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > DIMENSIONS:
        return False
    return all(type(size) is int and 0 <= size < 2**63 for size in value)


def _row_major(shape: Sequence[int]) -> list[int]:
    """The strides of a contiguous tensor."""
    return [prod(max(1, size) for size in shape[place + 1 :]) for place in range(len(shape))]
