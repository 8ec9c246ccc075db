"""Lines of text that fit the terminal: paragraphs, lists of names, and commands. No word is broken."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence

WIDEST = 120  # characters of a line of text
NARROWEST = 40  # in a terminal with fewer characters long lines are broken by the terminal
LEAST = 32  # characters that a text needs beside a name; with fewer it stands below the name
BELOW = 6  # how far a text below its name is indented
LATER = 4  # how far the later lines of a command are indented

# A number keeps its unit: 84.2 %, 1 min 15 s, 12.3 kB.
UNIT = re.compile(r"(?<=[0-9]) (?=(?:%|ms|s|min|h|B|kB|MB|GB|TB)(?![A-Za-z]))|(?<=[0-9] min) (?=[0-9]+ s\b)")
WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\S)+""")  # of a command; an argument in quotes is one


def text_width() -> int:
    """The number of characters of a line."""
    width = shutil.get_terminal_size((WIDEST, 24)).columns if sys.stdout.isatty() else WIDEST
    return max(min(width, WIDEST), NARROWEST)


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines; a word or a number with its unit is never broken, so a line may be longer than ``width``.

    >>> wrapped("784 maskable (99.9 %), sent in 1 min 15 s", 24)
    ['784 maskable (99.9 %),', 'sent in 1 min 15 s']
    """
    lines = textwrap.wrap(UNIT.sub("\0", text), max(width, 1), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def broken(text: str) -> str:
    """The lines of a text, in a terminal broken between words where they are too long."""
    if not sys.stdout.isatty():
        return text
    columns = shutil.get_terminal_size((WIDEST, 24)).columns
    return "\n".join(part for line in text.split("\n") for part in wrapped(line, columns) or [""])


def filled(text: str, first: str, later: str) -> str:
    """A text in lines that fit the terminal, with at most 120 characters.

    Args:
        text: with one space between two words.
        first, later: what the first line and the later ones begin with; they have the same length.
    """
    head, *others = wrapped(text, text_width() - len(later)) or [""]
    return "\n".join([first + head, *(later + line for line in others)])


def aligned(facts: Mapping[str, str], width: int | None, gap: int = 2) -> list[str]:
    """The lines of a table with a name and a text in each row; None is any width.

    A long text goes on in further lines, and so does one with line breaks; a word, such as a path, is never broken.
    ``gap`` is the number of spaces between the longest name and its text.

    >>> print(*aligned({"data": "Digits, 20 clients", "model": "MLP"}, width=20), sep="\\n")
    data   Digits, 20
           clients
    model  MLP
    """
    indent = max(map(len, facts), default=0) + gap
    lines = []
    for name, text in facts.items():
        room = max(len(text), 1) if width is None else max(width - indent, 10)
        parts = [part for line in text.split("\n") for part in wrapped(line, room)] or [""]
        heads = [name] + [""] * (len(parts) - 1)
        lines += [f"{head:<{indent}}{part}" for head, part in zip(heads, parts, strict=True)]
    return lines


def listed(entries: Sequence[tuple[str, str]], column: int = 0) -> str:
    """A list of names, each with a text beside it. Where the room beside is short, the texts stand below.

    Args:
        entries: names and texts; an empty name is that of the entry before. A name may be a command.
        column: the least width of the names, so that several lists are aligned.

    >>> print(listed([("density", "share of active weights"), ("", "in (0, 1]"), ("lr", "learning rate")]))
      density  share of active weights
               in (0, 1]
      lr       learning rate
    """
    column = max([column, *(len(name) for name, text in entries if text)])
    beside = text_width() - column - 4 >= LEAST
    indent = " " * (column + 4 if beside else BELOW)
    lines = []
    for name, text in entries:
        if beside and text:
            lines.append(filled(text, f"  {name:<{column}}  ", indent))
        else:
            lines += ([f"  {command(name, 2)}"] if name else []) + ([filled(text, indent, indent)] if text else [])
    return "\n".join(lines)


def laid_out(text: str) -> str:
    """A help text in lines that fit the terminal: paragraphs, and lists whose lines begin with two spaces.

    In a list at least two spaces stand between a name, or a command, and the text about it.

    >>> print(laid_out("How to\\nbegin:\\n  flash-pl configs  what there is\\n  flash-pl help lr  a key"))
    How to begin:
      flash-pl configs  what there is
      flash-pl help lr  a key
    """
    parts: list[str] = []
    for kind, lines in _grouped(text.splitlines()):
        if kind == "list":
            pairs = [re.split(r" {2,}", line.strip(), maxsplit=1) for line in lines]
            parts.append(listed([(name, "".join(about)) for name, *about in pairs]))
        else:
            parts.append(filled(" ".join(lines), "", "") if kind == "paragraph" else "\n".join(lines))
    return "\n".join(parts)


def _grouped(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Neighboring lines of one kind: ``list``, ``paragraph`` or ``empty``."""
    groups: list[tuple[str, list[str]]] = []
    for line in lines:
        kind = "empty" if not line.strip() else "list" if line.startswith("  ") else "paragraph"
        if not groups or groups[-1][0] != kind:
            groups.append((kind, []))
        groups[-1][1].append(line)
    return groups


def command(text: str, column: int) -> str:
    """A command. In a terminal one that is too long goes on in the next lines, as a shell reads it.

    Args:
        text: the command.
        column: where it begins.
    """
    if not sys.stdout.isatty():
        return text
    width, lines = shutil.get_terminal_size((WIDEST, 24)).columns - column, [""]
    for word in WORD.findall(text) if len(text) > width else [text]:
        room = width - len(" \\") - (LATER if len(lines) > 1 else 0)
        if lines[-1] and len(lines[-1]) + 1 + len(word) > room:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return f" \\\n{' ' * (column + LATER)}".join(lines)
