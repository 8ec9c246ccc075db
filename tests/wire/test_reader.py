"""Varints and pieces of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.errors import PayloadError
from flash_pl.wire.reader import Reader, encode_varint


@given(st.integers(0, 2**63 - 1))
def test_varints_come_back_in_as_few_bytes_as_possible(value):
    data = encode_varint(value)
    reader = Reader(data)
    assert reader.varint(value) == value and len(data) == max(1, -(-value.bit_length() // 7))
    reader.end()


def test_pieces_that_are_missing_or_too_large_are_refused():
    with pytest.raises(PayloadError, match="3 bytes .* offset 0, .* 2 "):
        Reader(b"ab").take(3)
    with pytest.raises(PayloadError, match="300 .* 299"):
        Reader(encode_varint(300)).varint(299)
    with pytest.raises(PayloadError, match="63 bits"):
        Reader(b"\xff" * 10).varint(2**70)
    with pytest.raises(PayloadError, match="not 0"):
        Reader(b"\xff").bits(7)
    with pytest.raises(PayloadError, match="1 bytes too many"):
        Reader(b"a").end()
