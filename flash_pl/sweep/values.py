"""The grammar of a sweep: ``KEY=a,b,c``."""

from collections.abc import Iterator
from dataclasses import dataclass

from flash_pl.errors import ConfigError

BRACKETS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Choice:
    """A key and the texts of its values, one for all runs or several to vary."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def read(cls, argument: str) -> "Choice":
        """
        >>> Choice.read("density=0.05,0.1")
        Choice(key='density', values=('0.05', '0.1'))

        Raises:
            ConfigError: no ``=``, an empty value between commas, a value twice, a bracket or quote that is not closed.
        """
        key, equals, text = argument.partition("=")
        if not (equals and key):
            raise ConfigError("argument", argument, "KEY=VALUE or KEY=VALUE,VALUE,...")
        values = tuple(value.strip() for value in split(key, text))
        if len(values) > 1 and not all(values):
            raise ConfigError(key, text, "a value on both sides of each comma")
        if len(set(values)) < len(values):
            raise ConfigError(key, text, "values that differ")
        return cls(key, values)

    @property
    def varies(self) -> bool:
        return len(self.values) > 1


def split(key: str, text: str) -> list[str]:
    """The parts of ``text`` between its commas; those inside brackets and quotes do not count.

    Joined with commas the parts are ``text`` again.

    >>> split("x", "[1, 2],{a: 'b,c'},d")
    ['[1, 2]', "{a: 'b,c'}", 'd']

    Raises:
        ConfigError: by its ``key``, a text with a bracket or a quote that is not closed.
    """
    cuts = list(_commas(key, text))
    return [text[start + 1 : end] for start, end in zip([-1, *cuts], [*cuts, len(text)], strict=True)]


def _commas(key: str, text: str) -> Iterator[int]:
    open_ = ""  # the brackets and the quote that are to be closed, the innermost last
    for index, character in enumerate(text):
        if open_[-1:] in ("'", '"'):
            open_ = open_[:-1] if character == open_[-1] else open_
        elif character in "'\"":
            open_ += character
        elif character in BRACKETS:
            open_ += BRACKETS[character]
        elif character in BRACKETS.values():
            if character != open_[-1:]:
                raise ConfigError(key, text, f"brackets that are opened; {character} is not")
            open_ = open_[:-1]
        elif character == "," and not open_:
            yield index
    if open_:
        raise ConfigError(key, text, f"brackets and quotes that are closed; {open_[-1]} is missing")
