"""Checks that many settings share."""

from numbers import Integral

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
