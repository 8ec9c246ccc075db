"""Checks that many settings share."""

from numbers import Integral, Real

from flash_pl.errors import ConfigError


def check_integers(least: int = 1, optional: bool = False, **values: object) -> None:
    """Refuse values, given by their keys, that are no integers of at least ``least``; None is one if ``optional``.

    >>> check_integers(rounds=10, cohort=2.5)
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: cohort: 2.5 is not allowed; expected an integer of at least 1

    Raises:
        ConfigError: the first of them.
    """
    for key, value in values.items():
        if value is None and optional:
            continue
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ConfigError(key, value, f"an integer of at least {least}{', or null' if optional else ''}")


def check_numbers(**values: object) -> None:
    """Refuse values, given by their keys, that are no numbers; what range they have is the caller's to say.

    Raises:
        ConfigError: the first of them.
    """
    for key, value in values.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ConfigError(key, value, "a number")


def check_flags(**values: object) -> None:
    """Refuse values, given by their keys, that are neither true nor false.

    >>> check_flags(compile="yes")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: compile: 'yes' is not allowed; expected true or false

    Raises:
        ConfigError: the first of them.
    """
    for key, value in values.items():
        if not isinstance(value, bool):
            raise ConfigError(key, value, "true or false")


def check_kinds(**values: tuple[object, type]) -> None:
    """Refuse values, given by their keys, that are not of the class beside them; None is of any.

    >>> check_kinds(seed=("1", int))
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: seed: '1' is not allowed; expected an object of class int

    Raises:
        ConfigError: the first of them.
    """
    for key, (value, kind) in values.items():
        if value is not None and not isinstance(value, kind):
            raise ConfigError(key, value, f"an object of class {kind.__name__}")
