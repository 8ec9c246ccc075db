"""Numbers and bits as bytes: ``encode_varint`` writes, and ``Reader`` reads from bytes that nobody has checked yet."""

import numpy as np
from numpy.typing import NDArray

from flash_pl.errors import MessageError, PayloadError


def encode_varint(value: int) -> bytes:
    """Return an integer in [0, 2^63) as a varint (LEB128): seven bits a byte, the lowest bits first.

    The highest bit of a byte tells whether another byte follows.

    >>> encode_varint(5), encode_varint(300)
    (b'\\x05', b'\\xac\\x02')

    Raises:
        MessageError: the integer is outside of this range.
    """
    if not 0 <= value < 2**63:
        raise MessageError(f"{value} is not in [0, 2^63)")
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class Reader:
    """Reads ``data`` piece by piece, from ``offset`` on. A piece that is missing or invalid raises ``PayloadError``.

    >>> reader = Reader(b"\\x01" + encode_varint(300) + b"abc")
    >>> reader.integer(1), reader.varint(limit=1000), bytes(reader.take(3))
    (1, 300, b'abc')
    >>> reader.take(1)
    Traceback (most recent call last):
    flash_pl.errors.PayloadError: 1 bytes are needed at offset 6, but only 0 are left
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = memoryview(data), 0

    @property
    def left(self) -> int:
        """The number of bytes that are not read yet."""
        return len(self.data) - self.offset

    def take(self, size: int) -> memoryview:
        """The next ``size`` bytes."""
        if not 0 <= size <= self.left:
            raise PayloadError(f"{size} bytes are needed at offset {self.offset}, but only {self.left} are left")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def integer(self, size: int) -> int:
        """An unsigned little-endian integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def varint(self, limit: int) -> int:
        """An integer that ``encode_varint`` wrote, at most ``limit``."""
        value = shift = 0
        while True:
            byte = self.integer(1)
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 63:
                raise PayloadError("an integer has more than 63 bits")
        if value > limit:
            raise PayloadError(f"{value} is more than {limit}, the largest possible value")
        return value

    def bits(self, count: int) -> NDArray[np.uint8]:
        """The next ``count`` bits, each as a uint8; the unused bits of the last byte must be 0."""
        flags = np.unpackbits(np.frombuffer(self.take(-(-count // 8)), dtype=np.uint8))
        if flags[count:].any():
            raise PayloadError("the unused bits of the last byte are not 0")
        return flags[:count]

    def end(self) -> None:
        """Check that all bytes are read."""
        if self.left:
            raise PayloadError(f"{self.left} bytes too many")
