"""Numbers as all commands write them: percent, bytes, times, metrics, counts."""

import math
from collections.abc import Sequence

MISSING = "not logged"  # in place of a metric that the module does not log


def percent(share: float) -> str:
    """A share in percent with one decimal.

    >>> percent(0.8416), percent(1.0)
    ('84.2 %', '100.0 %')
    """
    return f"{100 * share:.1f} %"


def metric(value: float | None, is_share: bool) -> str:
    """A metric: in percent if it is a share and between 0 and 1, else with four decimals or digits.

    >>> metric(0.8416, is_share=True), metric(0.8416, is_share=False), metric(3.2e12, False), metric(None, True)
    ('84.2 %', '0.8416', '3.2e+12', 'not logged')
    """
    if value is None:
        return MISSING
    if is_share and 0 <= value <= 1:
        return percent(value)
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"


def size(count: float) -> str:
    """A number of bytes with a decimal unit and three digits.

    >>> size(615), size(12_345), size(151_600), size(999_999), size(2.5e9)
    ('615 B', '12.3 kB', '152 kB', '1.00 MB', '2.50 GB')
    """
    return f"{count:.0f} B" if round(count) < 1000 else _scaled(count, ("kB", "MB", "GB", "TB"))


def flops(count: float) -> str:
    """A number of floating-point operations, like ``size``.

    >>> flops(4.2549e10), flops(3e16)
    ('42.5 GFLOPs', '30000 TFLOPs')
    """
    return f"{count:.0f} FLOPs" if round(count) < 1000 else _scaled(count, ("kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs"))


def duration(seconds: float) -> str:
    """A time as a person would say it.

    >>> duration(0.0342), duration(0.42), duration(12.34), duration(59.98), duration(75), duration(4000)
    ('34.2 ms', '0.42 s', '12.3 s', '1 min 0 s', '1 min 15 s', '1 h 7 min')
    """
    if 0 < seconds < 0.1:
        return f"{_three_digits(1000 * seconds)} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))


def rough(seconds: float) -> str:
    """A time that is an estimate or goes on: ``duration`` without fractions of seconds.

    >>> rough(0.3), rough(12.34), rough(59.8)
    ('0 s', '12 s', '1 min 0 s')
    """
    return f"{round(seconds)} s" if seconds < 59.5 else duration(round(seconds))


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "round"), counted(1500, "client")
    ('1 round', '1,500 clients')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _scaled(count: float, units: Sequence[str]) -> str:
    """A count in the smallest unit in which it has at most three digits, else in the last one."""
    for unit in units:
        count /= 1000
        if float(_three_digits(count)) < 1000 or unit == units[-1]:
            break
    return f"{_three_digits(count)} {unit}"


def _three_digits(value: float) -> str:
    exponent = math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(2 - exponent, 0), 2)}f}"
