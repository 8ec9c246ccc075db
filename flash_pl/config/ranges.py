"""The ranges of parameters, as the source of a class or function checks them with ``flash_pl.checks``."""

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from flash_pl.checks import check_booleans, check_choice, check_integers, check_numbers, in_words


@dataclass(frozen=True)
class Range:
    """The values that a parameter accepts.

    Attributes:
        words: what they are.
        check: raises the ``ConfigError`` of the class for another value, given by its key.
    """

    words: str
    check: Callable[..., None]


@cache  # many classes share a base class
def ranges_of(node: ast.ClassDef | ast.FunctionDef) -> dict[str, Range]:
    """The values that are accepted, by the name of the parameter.

    Only a check of one parameter in plain values says something here: ``check_numbers("(0, 1]", rate=self.rate)``.

    >>> source = '''
    ... def f(self, rate, rounds, mode):
    ...     check_numbers("(0, 1]", rate=rate)
    ...     check_integers(0, optional=True, rounds=self.rounds)
    ...     check_choice("max", "min", mode=config["mode"])
    ... '''
    >>> ranges = ranges_of(ast.parse(source).body[0])
    >>> {name: one.words for name, one in ranges.items()}
    {'rate': 'in (0, 1]', 'rounds': 'an integer of at least 0 or null', 'mode': 'max or min'}
    >>> ranges["rate"].check(**{"scheduler.rate": 2})
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: scheduler.rate: 2 is not in (0, 1]
    """
    found: dict[str, Range] = {}
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in CHECKS:
            try:
                positional = [ast.literal_eval(value) for value in call.args]
            except ValueError:  # the range is another value of the program
                continue
            named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            optional = named.get("optional") == "True"
            options: dict[str, Any] = {"optional": True} if optional else {}
            # A largest value has a name in the program; the class itself checks it.
            options |= {"most": sys.maxsize} if "most" in named else {}
            check, describe = CHECKS[call.func.id]
            accepted = Range(describe(*positional) + " or null" * optional, partial(check, *positional, **options))
            found |= {word.arg: accepted for word in call.keywords if word.arg and _name_of(word.value) == word.arg}
    return found


def _name_of(value: ast.expr) -> str:
    """The parameter that a checked expression is: ``rate``, ``self.rate`` or ``config["rate"]``."""
    if isinstance(value, ast.Attribute):
        return value.attr
    if isinstance(value, ast.Subscript):
        return str(getattr(value.slice, "value", ""))
    return value.id if isinstance(value, ast.Name) else ""


def _integers(least: int = 1, most: int | None = None) -> str:
    return f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"


def _numbers(interval: str = "(-inf, inf)", optional: bool = False) -> str:
    return in_words(interval)


def _choice(*choices: str) -> str:
    return " or ".join(choices)


def _booleans() -> str:
    return "true or false"


CHECKS: dict[str, tuple[Callable[..., None], Callable[..., str]]] = {
    "check_integers": (check_integers, _integers),
    "check_numbers": (check_numbers, _numbers),
    "check_choice": (check_choice, _choice),
    "check_booleans": (check_booleans, _booleans),
}
