"""Bytes that somebody else has written: everything is checked before it is used."""

import numpy as np
from numpy.typing import NDArray

from flash_pl.errors import PayloadError


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
