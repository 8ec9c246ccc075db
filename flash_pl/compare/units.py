"""Numbers for people: a unit in which a column reads well, and no more digits than mean something."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """``factor`` base units; ``digits`` after the point, None for three significant ones."""

    name: str
    factor: float = 1.0
    digits: int | None = None

    def write(self, value: float) -> str:
        """A number of base units in this unit.

        >>> Unit("MB", 1e6).write(1234567), Unit("%", 0.01, 1).write(0.8349), Unit("").write(0.00012)
        ('1.23', '83.5', '0.00012')
        """
        scaled = value / self.factor
        return f"{scaled:.{self.decimals(value)}f}"

    def decimals(self, value: float) -> int:
        """The number of decimals with which ``value`` base units are written."""
        if self.digits is not None:
            return self.digits
        scaled = abs(value / self.factor)
        exponent = int(f"{scaled:.2e}".partition("e")[2])  # after rounding to three digits
        return min(max(2 - exponent, 0), 5) if scaled else 0


@dataclass(frozen=True)
class Scale:
    """Units of one kind, ascending."""

    units: tuple[Unit, ...]

    def fitting(self, values: Iterable[float]) -> Unit:
        """The largest unit that is not above the largest value.

        >>> BYTES.fitting([20.0, 3e6]).name
        'MB'
        """
        largest = max(map(abs, values), default=0.0)
        return next((unit for unit in reversed(self.units) if unit.factor <= largest), self.units[0])


def _si(name: str, *prefixes: str) -> Scale:
    powers = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
    return Scale(tuple(Unit(f"{prefix}{name}", powers[prefix]) for prefix in prefixes))


BYTES = _si("B", "", "k", "M", "G", "T")
FLOPS = _si("FLOP", "", "M", "G", "T", "P", "E")
TIME = Scale((Unit("s"), Unit("min", 60.0), Unit("h", 3600.0), Unit("days", 86400.0)))
RATIO = Scale((Unit(""),))
SHARE = Scale((Unit("%", 0.01, 1),))
PLAIN = Scale((Unit(""),))


def scale_of_metric(values: Iterable[float | None], highest: bool) -> Scale:
    """Percent for what lies between 0 and 1 and should be high; values that are missing or not finite do not count."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return SHARE if highest and all(0 <= value <= 1 for value in finite) else PLAIN
