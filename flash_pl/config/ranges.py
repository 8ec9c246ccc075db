"""The ranges of parameters, as the source of a class or function checks them with ``flash_pl.checks``."""

import ast
from collections.abc import Callable
from functools import cache

from flash_pl.checks import in_words


@cache  # many classes share a base class
def ranges_of(node: ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    """The values that are accepted, in words, by the name of the parameter.

    Only a check of one parameter in plain values says something here: ``check_numbers("(0, 1]", rate=self.rate)``.

    >>> source = '''
    ... def f(self, rate, rounds, mode):
    ...     check_numbers("(0, 1]", rate=rate)
    ...     check_integers(0, optional=True, rounds=self.rounds)
    ...     check_choice("max", "min", mode=config["mode"])
    ... '''
    >>> ranges_of(ast.parse(source).body[0])
    {'rate': 'in (0, 1]', 'rounds': 'an integer of at least 0 or null', 'mode': 'max or min'}
    """
    found = {}
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in CHECKS:
            try:
                positional = [ast.literal_eval(value) for value in call.args]
            except ValueError:  # the range is another value of the program
                continue
            options = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg in ("optional", "least")}
            optional = "optional" in options and ast.unparse(options["optional"]) == "True"
            for keyword in call.keywords:
                if keyword.arg is not None and _name_of(keyword.value) == keyword.arg:
                    words = CHECKS[call.func.id](*positional)
                    found[keyword.arg] = words + " or null" * optional
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


CHECKS: dict[str, Callable[..., str]] = {
    "check_integers": _integers,
    "check_numbers": _numbers,
    "check_choice": _choice,
    "check_booleans": _booleans,
}
