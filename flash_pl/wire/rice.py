"""Golomb-Rice coding of increasing positions: near the entropy of a random mask, and fast.

The gap g between two positions of a random mask is geometric. A Rice code of parameter k writes floor(g / 2^k) in unary
and the k low bits as they are (Golomb 1966, Rice 1979). The unary parts of all gaps form one stream and the low bits
another, so both are made and read by whole-array operations.
"""

import math

import numpy as np
from numpy.typing import NDArray

from flash_pl.errors import PayloadError
from flash_pl.wire.header import Reader, number

Positions = NDArray[np.int64]


def parameter(count: int, size: int) -> int:
    """The best k for ``count`` positions among ``size``: 2^k is about ln 2 times the mean gap.

    >>> parameter(50, 1000), parameter(0, 10), parameter(10, 10)
    (4, 0, 0)
    """
    if not count:
        return 0
    mean = size / count - 1  # of the gaps
    # Kiely (2004): k = 1 + floor(log2(log(golden ratio - 1) / log(m / (m + 1)))), at least 0.
    if mean <= 0:
        return 0
    golden = (math.sqrt(5) + 1) / 2
    return max(0, 1 + math.floor(math.log2(math.log(golden - 1) / math.log(mean / (mean + 1)))))


def least(count: int, size: int) -> int:
    """No ``count`` positions below ``size`` are encoded in fewer bytes.

    >>> least(50, 1000), len(encode(np.arange(50), 1000))
    (34, 34)
    """
    if not count:
        return len(number(0))
    return len(number(count)) + len(number(count)) + -(-count // 8) + -(-count * parameter(count, size) // 8)


def encode(positions: Positions, size: int) -> bytes:
    """Increasing ``positions`` below ``size``."""
    count = len(positions)
    k = parameter(count, size)
    head = number(count)
    if not count:
        return head
    gaps = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum((gaps >> k) + 1) - 1  # where in the unary stream each quotient's closing 1 stands
    unary = np.zeros(int(ends[-1]) + 1, dtype=np.uint8)
    unary[ends] = 1
    low = (gaps[:, None] >> np.arange(k)) & 1
    return head + number(len(unary)) + np.packbits(unary).tobytes() + np.packbits(low.astype(np.uint8)).tobytes()


def decode(reader: Reader, size: int) -> Positions:
    """What ``encode`` wrote for the same ``size``.

    Raises:
        PayloadError: it did not write this.
    """
    count = reader.number(size)
    if not count:
        return np.empty(0, dtype=np.int64)
    k = parameter(count, size)
    # All quotients add up to at most size / 2^k, and each has a closing 1.
    length = reader.number((size >> k) + count)
    ends = np.flatnonzero(reader.bits(length))
    if len(ends) != count or ends[-1] != length - 1:
        raise PayloadError(f"{len(ends)} positions where {count} were announced")
    low = reader.bits(count * k).reshape(count, k)
    gaps = (np.diff(ends, prepend=-1) - 1) << k
    for bit in range(k):
        gaps += low[:, bit].astype(np.int64) << bit
    positions = np.cumsum(gaps + 1) - 1
    if positions[-1] >= size:
        raise PayloadError(f"position {positions[-1]} in a tensor of {size} weights")
    return positions
