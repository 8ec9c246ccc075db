"""Golomb-Rice coding of increasing positions: close to the entropy of a random mask, and fast.

In a random mask the gap g between two positions has a geometric distribution. A Rice code with parameter k writes
floor(g / 2^k) in unary and the k low bits of g unchanged (Golomb 1966, Rice 1979). The unary parts of all gaps form one
stream of bits and the low bits another, so whole-array operations encode and decode them.

| bytes             | content                                                                     |
|-------------------|-----------------------------------------------------------------------------|
| varint            | number of positions n; if it is 0, nothing follows                          |
| varint            | length u of the unary stream in bits                                        |
| ceil(u / 8)       | unary stream: floor(g / 2^k) zeros and a one, for each gap g                |
| ceil(n k / 8)     | k low bits of each gap, lowest bit first                                    |

k follows from n and the number of weights (``parameter``). In both streams the first bit is the highest of its byte.
"""

import math

import numpy as np
from numpy.typing import NDArray

from flash_pl.errors import PayloadError
from flash_pl.wire.reader import Reader, encode_varint

Positions = NDArray[np.int64]


def encode(positions: Positions, size: int) -> bytes:
    """Encode increasing ``positions`` in [0, size)."""
    count = len(positions)
    k = parameter(count, size)
    head = encode_varint(count)
    if not count:
        return head
    gaps = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum((gaps >> k) + 1) - 1  # the index in the unary stream of the one that ends each gap
    unary = np.zeros(int(ends[-1]) + 1, dtype=np.uint8)
    unary[ends] = 1
    low = (gaps[:, None] >> np.arange(k)) & 1
    return head + encode_varint(len(unary)) + np.packbits(unary).tobytes() + np.packbits(low.astype(np.uint8)).tobytes()


def decode(reader: Reader, size: int, most: int | None = None) -> Positions:
    """Return the positions that ``encode`` wrote for the same ``size``; ``most`` is the largest number of them allowed.

    Raises:
        PayloadError: the bytes are not a valid encoding.
    """
    count = reader.varint(size if most is None else min(size, most))
    if not count:
        return np.empty(0, dtype=np.int64)
    k = parameter(count, size)
    # The unary stream has a one for each gap, and at most size / 2^k zeros in total.
    length = reader.varint((size >> k) + count)
    ends = np.flatnonzero(reader.bits(length))
    if len(ends) != count or ends[-1] != length - 1:
        raise PayloadError(f"the unary stream has {len(ends)} positions, not {count}")
    low = reader.bits(count * k).reshape(count, k)
    gaps = (np.diff(ends, prepend=-1) - 1) << k
    for bit in range(k):
        gaps += low[:, bit].astype(np.int64) << bit
    positions = np.cumsum(gaps + 1) - 1
    if positions[-1] >= size:
        raise PayloadError(f"position {positions[-1]} is outside of a tensor with {size} weights")
    return positions


def parameter(count: int, size: int) -> int:
    """Return the best k for ``count`` positions in [0, size): 2^k is about ln 2 times the mean gap.

    >>> parameter(50, 1000), parameter(0, 10), parameter(10, 10)
    (4, 0, 0)
    """
    if not count:
        return 0
    mean = size / count - 1  # mean gap
    # Kiely (2004): k = 1 + floor(log2(log(golden ratio - 1) / log(mean / (mean + 1)))), at least 0.
    if mean <= 0:
        return 0
    golden = (math.sqrt(5) + 1) / 2
    return max(0, 1 + math.floor(math.log2(math.log(golden - 1) / math.log(mean / (mean + 1)))))


def size(count: int, weights: int, zeros: int) -> int:
    """Return the length of what ``encode`` returns for ``count`` positions in [0, weights).

    Args:
        zeros: of the unary stream, the sum of floor(g / 2^k) over all gaps g.

    >>> size(50, 1000, zeros=0), len(encode(np.arange(50), 1000))
    (34, 34)
    """
    head = len(encode_varint(count))
    if not count:
        return head
    unary = count + zeros
    return head + len(encode_varint(unary)) + -(-unary // 8) + -(-count * parameter(count, weights) // 8)


def min_size(count: int, size: int) -> int:
    """Return a lower bound for the bytes that ``encode`` needs for ``count`` positions in [0, size).

    >>> min_size(50, 1000), len(encode(np.arange(50), 1000))
    (34, 34)
    """
    head = len(encode_varint(count))
    if not count:
        return head
    # The unary stream has at least one bit for each position, so its length takes at least as many bytes as the count.
    return head + head + -(-count // 8) + -(-count * parameter(count, size) // 8)
