"""Help texts of parameters: their entries in the ``Args:`` section of a docstring."""

import inspect
import re
from collections.abc import Callable
from itertools import takewhile
from typing import Any

ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")  # Sphinx's links, such as :class:`~torch.nn.Linear`
# "rounds: text", "rounds, cohort: text", "rounds (int): text"; the text may begin on the next line.
ENTRY = re.compile(r"(\\?\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:(?: +(.*))?")


def parameter_help(target: Callable[..., Any]) -> dict[str, str]:
    """The help text of each documented parameter of a class or function.

    The parameters of a class are documented in its own docstring, in that of its ``__init__``, or in those of its base
    classes; the nearest docstring wins.

    >>> class Base:
    ...     '''A base class.
    ...
    ...     Args:
    ...         rate: a share.
    ...         rounds: a count.
    ...     '''
    >>> class Derived(Base):
    ...     '''A class with another rate.
    ...
    ...     Args:
    ...         rate: a share in (0, 1].
    ...     '''
    >>> parameter_help(Derived)
    {'rate': 'a share in (0, 1].', 'rounds': 'a count.'}
    """
    if not inspect.isclass(target):
        return read_args(target.__doc__)
    texts: dict[str, str] = {}
    for cls in reversed(target.__mro__):
        texts |= read_args(getattr(vars(cls).get("__init__"), "__doc__", None))
        texts |= read_args(vars(cls).get("__doc__"))
    return texts


def read_args(docstring: str | None) -> dict[str, str]:
    """The entries of the ``Args:`` section of a docstring in Google's style, each text on one line.

    A link of Sphinx becomes the name that it shows.

    >>> read_args('''Scale and add.
    ...
    ...     Args:
    ...         first, second: the numbers
    ...             to add: integers or floats.
    ...         scale: factor of the sum, as in :class:`~torch.nn.Linear`.
    ...
    ...     Returns:
    ...         total: the sum.
    ...     ''')
    {'first': 'the numbers to add: integers or floats.', 'second': 'the numbers to add: integers or floats.',
     'scale': 'factor of the sum, as in ``Linear``.'}
    """
    lines = [line for line in inspect.cleandoc(docstring or "").splitlines() if line.strip()]
    headers = [number for number, line in enumerate(lines) if line.strip() == "Args:"]
    if not headers:
        return {}
    header = lines[headers[0]]
    section = list(takewhile(lambda line: _indent(line) > _indent(header), lines[headers[0] + 1 :]))
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section:
        # All entries have the indentation of the first one; a deeper line continues the entry before it.
        entry = ENTRY.fullmatch(line.strip()) if _indent(line) == _indent(section[0]) else None
        if entry:
            names = [name.lstrip("\\*") for name in entry[1].split(", ")]
        text = ROLE.sub(r"``\1``", (entry[2] or "") if entry else line.strip())
        texts |= {name: f"{texts.get(name, '') if not entry else ''} {text}".strip() for name in names}
    return texts


def first_sentence(text: str) -> str:
    """The first sentence of a help text, without its full stop.

    >>> first_sentence("rounds between two checkpoints, e.g. 10. A checkpoint is large.")
    'rounds between two checkpoints, e.g. 10'
    """
    return re.split(r"\.(?=\s+[A-Z]|$)", text, maxsplit=1)[0]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
