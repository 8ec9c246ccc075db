"""Checks of settings: each raises a ``ConfigError`` by the setting's key."""

import math
import re
from numbers import Integral, Real

from flash_pl.errors import ConfigError, as_yaml

MOST = 2**31 - 1  # more than any count of a run, and less than what overflows torch's 64-bit sizes
LARGEST_SEED = 2**63 - 1
MOST_THREADS = 1024  # of a process; a typing error must not fill the machine


def check_integers(least: int = 1, most: int = MOST, *, optional: bool = False, **values: object) -> None:
    """Check that the values, given by their keys, are integers from ``least`` to ``most``; with ``optional`` also None.

    >>> check_integers(rounds=10, cohort=2.5)
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: cohort: 2.5 is not an integer of at least 1
    >>> check_integers(1, 4096, threads=10**9)
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: threads: 1000000000 is more than 4096

    Raises:
        ConfigError: for the first value that is not.
    """
    for key, value in values.items():
        if value is None and optional:
            continue
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ConfigError(key, f"{as_yaml(value)} is not an integer of at least {least}{' or null' * optional}")
        if int(value) > most:
            raise ConfigError(key, f"{as_yaml(int(value))} is more than {most}")


def check_numbers(interval: str = "(-inf, inf)", optional: bool = False, **values: object) -> None:
    """Check that the values, given by their keys, are numbers in an interval; with ``optional`` also None.

    Args:
        interval: in the usual notation, such as ``"(0, 1]"`` for 0 < value <= 1.

    >>> check_numbers("(0, 1]", density=1.5)
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: density: 1.5 is not in (0, 1]
    >>> check_numbers("(0, inf)", lr=0)
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: lr: 0 is not a number above 0

    Raises:
        ConfigError: for the first value that is not.
    """
    open_low, low, high, open_high = _ends(interval)
    least, most = float(low), float(high)
    for key, value in values.items():
        if value is None and optional:
            continue
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ConfigError(key, f"{as_yaml(value)} is not a number")
        try:
            number = float(value)
        except OverflowError:  # an integer
            number = math.copysign(math.inf, float(value > 0) - 0.5)  # type: ignore[operator]
        above = number > least if open_low == "(" else number >= least
        below = number < most if open_high == ")" else number <= most
        if math.isinf(number) and open_high == ")" and above:
            raise ConfigError(key, f"{as_yaml(value)} is not finite")
        if not (above and below):  # NaN is neither
            raise ConfigError(key, f"{as_yaml(value)} is not {in_words(interval)}")


def in_words(interval: str) -> str:
    """The numbers of an interval, in words.

    >>> in_words("(0, 1]"), in_words("[0, inf)")
    ('in (0, 1]', 'a number of at least 0')
    """
    open_low, low, high, _ = _ends(interval)
    if high != "inf":
        return f"in {interval}"
    if low == "-inf":
        return "a finite number"
    return f"a number above {low}" if open_low == "(" else f"a number of at least {low}"


def _ends(interval: str) -> tuple[str, str, str, str]:
    """The left bracket, the lower end, the upper end and the right bracket."""
    return re.fullmatch(r"([\[(])(.+), (.+)([\])])", interval).groups()  # type: ignore[union-attr,return-value]


def check_booleans(**values: object) -> None:
    """Check that the values, given by their keys, are True or False.

    >>> check_booleans(compile="yes")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: compile: 'yes' is not true or false

    Raises:
        ConfigError: for the first value that is not.
    """
    for key, value in values.items():
        if not isinstance(value, bool):
            raise ConfigError(key, f"{as_yaml(value)} is not true or false")


def check_choice(*choices: str, **values: object) -> None:
    """Check that the values, given by their keys, are among ``choices``.

    >>> check_choice("norm", "value", gradient_clip_algorithm="sum")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: gradient_clip_algorithm: 'sum' is not one of norm, value

    Raises:
        ConfigError: for the first value that is not.
    """
    for key, value in values.items():
        if value not in choices:
            raise ConfigError(key, f"{as_yaml(value)} is not one of {', '.join(choices)}")


def check_type(key: str, value: object, kind: type) -> None:
    """Check that a value is an object of a class.

    >>> check_type("MyScheduler.voter", int, float)
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: MyScheduler.voter: the class int is not an object of class float

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, kind):
        raise ConfigError(key, f"{as_yaml(value)} is not an object of class {kind.__name__}")


def check_types(**values: tuple[object, type]) -> None:
    """Check that the values, given by their keys as (value, class), are None or of their class.

    >>> check_types(seed=("1", int))
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: seed: '1' is not an object of class int

    Raises:
        ConfigError: for the first value that is not.
    """
    for key, (value, kind) in values.items():
        if value is not None:
            check_type(key, value, kind)
