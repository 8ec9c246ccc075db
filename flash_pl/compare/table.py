"""The tables of a comparison, and what writes it as CSV, Markdown and LaTeX."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from flash_pl.compare.columns import Column
from flash_pl.compare.comparison import Comparison

SHORT = 12  # characters of a title that is not worth two lines


@dataclass(frozen=True)
class Entry:
    """A cell as it is shown."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Columns with titles, ``units`` (often empty) and rows; the first ``names`` are text, the others numbers."""

    titles: Sequence[str]
    units: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    names: int
    caption: str

    @classmethod
    def of(cls, comparison: Comparison) -> list["Table"]:
        """One of accuracies and masks, one of costs; a row a group, data set and model only where they differ."""
        parts = {"accuracy": comparison.about_accuracy, "cost": comparison.about_costs}
        return [
            cls._part(comparison, [column for column in comparison.columns if column.part == part], caption)
            for part, caption in parts.items()
            if any(column.part == part for column in comparison.columns)
        ]

    @classmethod
    def _part(cls, comparison: Comparison, columns: Sequence[Column], caption: str) -> "Table":
        groups = comparison.groups
        varied = [key for key in ("data", "model") if len({one.first.names[key] for one in groups}) > 1]
        rows = []
        for one in groups:
            about = [*(one.first.names[key] for key in varied), one.name]
            facts = [f"{one.first.density:g}", str(len(one.runs))]
            numbers = [Entry(comparison.text(one, column), comparison.is_best(one, column)) for column in columns]
            rows.append([*map(Entry, about + facts), *numbers])
        titles = [*varied, "scheduler", "density", "seeds", *(column.title for column in columns)]
        units = ["" for _ in range(len(varied) + 3)] + [comparison.unit(column).name for column in columns]
        return cls(titles, units, rows, len(varied) + 1, caption)

    @property
    def headers(self) -> list[str]:
        """Titles with their units: ``up, MB``."""
        return [f"{title}, {unit}" if unit else title for title, unit in zip(self.titles, self.units, strict=True)]

    @property
    def stacked(self) -> list[list[str]]:
        """The headers in lines, the unit in the last one."""
        pairs = zip(self.titles, self.units, strict=True)
        return [[*_halves(title), *([f"({unit})"] if unit else [])] for title, unit in pairs]


def as_csv(comparison: Comparison) -> str:
    """Plain numbers in base units: for every column its mean, its standard deviation (empty for a single seed) and the
    number of seeds that have it; those that diverged do not count, and the mean of none is ``nan``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = ("mean", "std", "n")
    names = ["data", "model", "scheduler", "density", "settings", "seeds"]
    writer.writerow([*names, *(f"{column.key}_{part}" for column in comparison.columns for part in parts)])
    for one in comparison.groups:
        settings = "; ".join(f"{key}={value}" for key, value in one.settings.items())
        about = [one.first.names["data"], one.first.names["model"], one.first.names["scheduler"], one.first.density]
        numbers: list[float | str | None] = []
        for column in comparison.columns:
            cell = comparison.cell(one, column)
            numbers += [None, None, 0] if cell is None else [cell.mean, cell.std, cell.n]
        writer.writerow([*about, settings, " ".join(map(str, one.seeds)), *numbers])
    return out.getvalue()


def as_markdown(tables: Sequence[Table]) -> str:
    """Pipe tables."""
    lines = []
    for table in tables:
        cells = [[_emphasize(entry, escape_markdown, "**{}**") for entry in row] for row in table.rows]
        rule = ["---"] * table.names + ["---:"] * (len(table.titles) - table.names)
        lines += ["| " + " | ".join(row) + " |" for row in [list(map(escape_markdown, table.headers)), rule, *cells]]
        lines += ["", f"{escape_markdown(table.caption)} Best in bold.", ""]
    return "\n".join(lines)


def as_latex(tables: Sequence[Table]) -> str:
    r"""A ``tabular`` each, for ``\usepackage{booktabs}``."""
    lines = [r"% needs \usepackage{booktabs}"]
    for table in tables:
        rows = [" & ".join(_emphasize(entry, escape_latex, r"\textbf{{{}}}") for entry in row) for row in table.rows]
        lines += [
            f"% {table.caption} Best in bold.",
            rf"\begin{{tabular}}{{{'l' * table.names + 'r' * (len(table.titles) - table.names)}}}",
            r"\toprule",
            rf"{' & '.join(map(_cell, table.stacked))} \\",
            r"\midrule",
            *(rf"{row} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    r"""
    >>> escape_markdown("a_b <i> | c")
    'a\\_b \\<i> \\| c'
    """
    return re.sub(r"([\\`*_\[\]<|&~])", r"\\\1", text)


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "…": r"\dots{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    r"""
    >>> escape_latex("a_b & 5 %")
    'a\\_b \\& 5 \\%'
    """
    return "".join(LATEX.get(character, character) for character in text)


def _emphasize(entry: Entry, escape: Callable[[str], str], bold: str) -> str:
    text = escape(entry.text)
    return bold.format(text) if entry.best else text


def _cell(lines: Sequence[str]) -> str:
    """Lines in one cell."""
    escaped = [escape_latex(line) for line in lines]
    if len(lines) == 1:
        return escaped[0]
    return r"\begin{tabular}{@{}r@{}}" + r" \\ ".join(escaped) + r"\end{tabular}"


def _halves(title: str) -> list[str]:
    """A long title in two lines that are as even as its words allow."""
    words = title.split()
    cuts = [[" ".join(words[:i]), " ".join(words[i:])] for i in range(1, len(words))]
    return [title] if len(title) <= SHORT or not cuts else min(cuts, key=lambda cut: max(map(len, cut)))


def show(table: Table, console: Console) -> None:
    """Print a table; one that is wider than the terminal in parts, each with the names of its rows.

    What goes into a file or a pipe stays in one piece, and has stars where a terminal has bold.
    """
    star = "" if console.is_terminal else "*"
    rest = list(range(table.names, len(table.titles)))
    while rest:
        count = len(rest)
        while count > 1 and console.is_terminal and _width(_part(table, rest[:count], star), console) > console.width:
            count -= 1
        part = _part(table, rest[:count], star)
        (console if console.is_terminal else Console(file=console.file, width=_width(part, console))).print(part)
        rest = rest[count:]
    console.print(Text(f"{table.caption} Best {'with *' if star else 'in bold'}."), soft_wrap=not console.is_terminal)


def _part(table: Table, numbers: list[int], star: str) -> RichTable:
    part = RichTable(box=box.SIMPLE_HEAD)
    indices = [*range(table.names), *numbers]
    for index in indices:
        title, number = Text("\n".join(table.stacked[index])), index >= table.names
        part.add_column(title, justify="right" if number else "left", vertical="bottom", no_wrap=number)
    for row in table.rows:
        part.add_row(*(_shown(row[index], star) for index in indices))
    return part


def _shown(entry: Entry, star: str) -> Text:
    return Text(star + entry.text, style="bold") if entry.best else Text(entry.text)


def _width(part: RichTable, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), part).maximum
