"""The tables of a comparison, for the terminal and as CSV, Markdown and LaTeX."""

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
from flash_pl.errors import printable

LONGEST_LINE = 12  # characters of a title in one line; a longer title gets two lines


@dataclass(frozen=True)
class Cell:
    """The text of a cell, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table in which every row is an experiment.

    Args:
        titles: of the columns.
        units: of the columns; empty for texts and plain numbers.
        rows: the cells of each row.
        names: the number of columns with text; the columns after them have numbers.
        caption: what the numbers are.

    >>> table = Table(["scheduler", "up"], ["", "MB"], [[Cell("jmwst"), Cell("1.50", best=True)]], 1, "Costs.")
    >>> print(as_markdown([table]))
    | scheduler | up, MB |
    | --- | ---: |
    | jmwst | **1.50** |
    <BLANKLINE>
    Costs. Best in bold.
    <BLANKLINE>
    """

    titles: Sequence[str]
    units: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int
    caption: str

    @property
    def headers(self) -> list[str]:
        """The titles with their units in one line: ``up, MB``."""
        return [f"{title}, {unit}" if unit else title for title, unit in zip(self.titles, self.units, strict=True)]

    @property
    def stacked_headers(self) -> list[list[str]]:
        """The lines of each title, with the unit in the last line."""
        pairs = zip(self.titles, self.units, strict=True)
        return [[*_in_two_lines(title), *([f"({unit})"] if unit else [])] for title, unit in pairs]


def tables_of(comparison: Comparison) -> list[Table]:
    """Return the table of accuracies and masks and the table of costs; a table without columns is left out."""
    captions = {"accuracy": comparison.about_accuracy, "cost": comparison.about_costs}
    columns = {kind: [column for column in comparison.columns if column.table == kind] for kind in captions}
    return [_table(comparison, columns[kind], caption) for kind, caption in captions.items() if columns[kind]]


def _table(comparison: Comparison, columns: Sequence[Column], caption: str) -> Table:
    """A table of some columns; data set and model are in it only if they are not the same in all groups."""
    groups = comparison.groups
    varied = [section for section in ("data", "model") if len({group.first.names[section] for group in groups}) > 1]
    rows = []
    for group in groups:
        names = [*(group.first.names[section] for section in varied), group.name]
        facts = [f"{group.first.density:g}", str(len(group.runs))]
        numbers = [Cell(comparison.text(group, column), comparison.is_best(group, column)) for column in columns]
        rows.append([*map(Cell, names + facts), *numbers])
    titles = [*varied, "scheduler", "density", "seeds", *(column.title for column in columns)]
    units = [""] * (len(varied) + 3) + [comparison.unit(column).name for column in columns]
    return Table(titles, units, rows, len(varied) + 1, caption)


def _in_two_lines(title: str) -> list[str]:
    """Split a long title between two words into lines of similar length."""
    words = title.split()
    splits = [[" ".join(words[:index]), " ".join(words[index:])] for index in range(1, len(words))]
    if len(title) <= LONGEST_LINE or not splits:
        return [title]
    return min(splits, key=lambda lines: max(map(len, lines)))


def as_csv(comparison: Comparison) -> str:
    """Return one CSV table with all numbers in base units (bytes, FLOPs, seconds, shares).

    Every column of the comparison has three columns: the mean over seeds, the sample standard deviation (empty for a
    single seed) and the number of seeds. Seeds that diverged do not count; if all did, the mean is ``nan``. A text that
    a spreadsheet would take for a formula has an apostrophe in front.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ["data", "model", "scheduler", "density", "settings", "seeds"]
    titles = [f"{column.key}_{part}" for column in comparison.columns for part in ("mean", "std", "n")]
    writer.writerow([*names, *map(escape_csv, titles)])
    for group in comparison.groups:
        facts = [group.first.names[section] for section in ("data", "model", "scheduler")]
        facts.append("; ".join(f"{key}={value}" for key, value in group.settings.items()))
        numbers: list[float | None] = []
        for column in comparison.columns:
            cell = comparison.statistics(group, column)
            numbers += [None, None, 0] if cell is None else [cell.mean, cell.std, cell.n]
        *names, settings = map(escape_csv, facts)
        writer.writerow([*names, group.first.density, settings, " ".join(map(str, group.seeds)), *numbers])
    return file.getvalue()


def escape_csv(text: str) -> str:
    """
    >>> escape_csv("=1+1"), escape_csv("jmwst")
    ("'=1+1", 'jmwst')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def as_markdown(tables: Sequence[Table]) -> str:
    """Return pipe tables with their captions."""
    lines = []
    for table in tables:
        rule = ["---"] * table.names + ["---:"] * (len(table.titles) - table.names)
        rows = [[_emphasized(cell, escape_markdown, "**{}**") for cell in row] for row in table.rows]
        lines += ["| " + " | ".join(row) + " |" for row in [list(map(escape_markdown, table.headers)), rule, *rows]]
        lines += ["", f"{escape_markdown(table.caption)} Best in bold.", ""]
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    r"""
    >>> escape_markdown("a_b <i> | c")
    'a\\_b \\<i> \\| c'
    """
    return re.sub(r"([\\`*_\[\]<|&~])", r"\\\1", text)


def as_latex(tables: Sequence[Table]) -> str:
    r"""Return a ``tabular`` per table; the document needs ``\usepackage{booktabs}``."""
    lines = [r"% needs \usepackage{booktabs}"]
    for table in tables:
        rows = [" & ".join(_emphasized(cell, escape_latex, r"\textbf{{{}}}") for cell in row) for row in table.rows]
        lines += [
            f"% {table.caption} Best in bold.",
            rf"\begin{{tabular}}{{{'l' * table.names + 'r' * (len(table.titles) - table.names)}}}",
            r"\toprule",
            rf"{' & '.join(map(_latex_header, table.stacked_headers))} \\",
            r"\midrule",
            *(rf"{row} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    return "\n".join(lines)


def _latex_header(lines: Sequence[str]) -> str:
    escaped = [escape_latex(line) for line in lines]
    return escaped[0] if len(escaped) == 1 else r"\begin{tabular}{@{}r@{}}" + r" \\ ".join(escaped) + r"\end{tabular}"


LATEX_ESCAPES = {
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
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)


def _emphasized(cell: Cell, escape: Callable[[str], str], bold: str) -> str:
    text = escape(cell.text)
    return bold.format(text) if cell.best else text


def print_table(table: Table, console: Console) -> None:
    """Print a table.

    In a terminal that is too narrow the columns are spread over several tables, which all have the names of the rows.
    In a file or a pipe the table is in one piece, and the best numbers have a star in front, because they cannot be
    bold.

    >>> import io
    >>> table = Table(["scheduler", "up"], ["", "MB"], [[Cell("jmwst"), Cell("1.50", best=True)]], 1, "Costs.")
    >>> out = io.StringIO()
    >>> print_table(table, Console(file=out))
    >>> print(out.getvalue().splitlines()[-1])
    Costs. Best with *.
    """
    star = "" if console.is_terminal else "*"
    remaining = list(range(table.names, len(table.titles)))
    while remaining:
        count = 1 if console.is_terminal else len(remaining)
        while count < len(remaining) and _width(_rich(table, remaining[: count + 1], star), console) <= console.width:
            count += 1
        part = _rich(table, remaining[:count], star)
        (console if console.is_terminal else Console(file=console.file, width=_width(part, console))).print(part)
        remaining = remaining[count:]
    console.print(Text(f"{table.caption} Best {'with *' if star else 'in bold'}."), soft_wrap=not console.is_terminal)


def _rich(table: Table, numbers: list[int], star: str) -> RichTable:
    """Return a rich table with the columns of names and some columns of numbers."""
    part = RichTable(box=box.SIMPLE_HEAD)
    columns = [*range(table.names), *numbers]
    for index in columns:
        is_number = index >= table.names
        header = Text("\n".join(table.stacked_headers[index]))
        part.add_column(header, justify="right" if is_number else "left", vertical="bottom", no_wrap=is_number)
    for row in table.rows:
        part.add_row(*(_rich_cell(row[index], star) for index in columns))
    return part


def _rich_cell(cell: Cell, star: str) -> Text:
    """``Text`` shows brackets, which a string would take for markup."""
    return Text(star + printable(cell.text), style="bold") if cell.best else Text(printable(cell.text))


def _width(part: RichTable, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), part).maximum
