"""Values of YAML against type hints."""

import pytest

from flash_pl import JMWST
from flash_pl.config.signature import describe, fits


@pytest.mark.parametrize(
    "value, hint, fine",
    [
        (1, int, True), (1, float, True), (1.5, int, False), (True, int, False), (True, float, False),
        (None, int, False), (None, int | None, True), ([1, 2], tuple[int, int], True), ([1, "a"], list[int], False),
        ("ab", list[str], False), ({"a": 1}, dict[str, int], True), ({"a": 1}, int, False), ("x", JMWST, False),
    ],
)  # fmt: skip
def test_values_fit_hints(value, hint, fine):
    assert fits(value, hint) is fine
    assert describe(hint)
